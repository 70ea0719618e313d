"""Convert the videos of a data set, both splits, to a storage that loads faster.

The output folder needs nothing else: train with --config.data.storage=STORAGE --config.data.storage_root=OUT, also when
the videos are gone. Running the command again goes on where it stopped and converts what is new or has changed.

Examples:
  python -m hvt_jax prepare --config=configs/ucf.py --storage=array_record --out=data/ucf101_128
  python -m hvt_jax prepare --config=configs/ucf.py --storage=frames --out=data/ucf101_frames --short_side=256
  python -m hvt_jax prepare --config=configs/k400.py --storage=array_record --content=mp4 --out=data/k400_mp4
  python -m hvt_jax prepare --config=configs/k400.py --storage=hdf5 --out=OUT --engine=beam -- --runner=FlinkRunner

Exit codes: 0 done; 2 bad config or data, or more failures than data.max_bad_fraction allows.
"""

import pathlib
import re
import time

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config document, e.g. configs/ucf.py.", lock_config=True)
STORAGE = flags.DEFINE_string("storage", None, "frames | hdf5 | array_record.")
OUT = flags.DEFINE_string("out", None, "Folder to write, a new one or that of an earlier conversion.")
CONTENT = flags.DEFINE_string("content", "jpeg", "jpeg: a file for each frame | mp4: one for each video.")
SHORT_SIDE = flags.DEFINE_integer("short_side", 128, "Pixels of the shorter side; nothing is enlarged; 0 = as it is.")
CROP = flags.DEFINE_string("crop", None, "HEIGHTxWIDTH in pixels to cover and cut in the centre, not --short_side.")
QUALITY = flags.DEFINE_integer("quality", 90, "Of JPEG files, 1-100.")
CRF = flags.DEFINE_integer("crf", 18, "Of .mp4 files, 0 (best) - 51.")
GROUP = flags.DEFINE_integer("group", 12, "Frames from one keyframe of an .mp4 file to the next.")
SHARDS = flags.DEFINE_integer("shards", 0, "Number of shards; 0 = one for 32 videos, at least 8, at most 1024.")
WORKERS = flags.DEFINE_integer("workers", 0, "Shards at work at a time on this machine; 0 = one a core.")
ENGINE = flags.DEFINE_enum("engine", "local", ["local", "beam", "ray"], "beam: options of its runner follow --.")
_LISTED = 100  # failures on the screen; the reports have all


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    words = argv[:1] if ENGINE.value == "beam" else argv  # Beam has options of its own
    example = "--config=configs/ucf.py --storage=array_record --out=data/ucf101_128"
    if code := cli.refuse(words, CONFIG, STORAGE, OUT, example=example):
        return code
    if CROP.value and not re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", CROP.value):
        return cli.fail(f"--crop={CROP.value}, but must be HEIGHTxWIDTH, e.g. 112x112")
    if SHARDS.value not in range(100_001) or WORKERS.value not in range(1025):
        return cli.fail(f"--shards={SHARDS.value} --workers={WORKERS.value}, but must be 0-100000 and 0-1024")
    return cli.run(lambda: _prepare(argv[1:]), output=OUT.value)


def _prepare(arguments: list[str]) -> int:
    from rich import console, progress

    from hvt_jax.data import parallel
    from hvt_jax.settings import read_settings
    from hvt_jax.tools import preparation, preparation_engines, preparation_reports
    from hvt_jax.tools.conversion import Encoding

    settings, began, out = read_settings(CONFIG.value).data, time.monotonic(), pathlib.Path(OUT.value)
    crop = tuple(int(side) for side in CROP.value.split("x")) if CROP.value else None
    encoding = Encoding(CONTENT.value, SHORT_SIDE.value, crop, QUALITY.value, CRF.value, GROUP.value)
    plan = preparation.make_plan(settings, STORAGE.value, out, encoding, SHARDS.value)
    screen = console.Console(soft_wrap=True, highlight=False)
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with preparation.locked(out):
        with progress.Progress(*columns, console=screen) as bar:
            task = bar.add_task("videos", total=sum(len(shard.videos) for shard in plan.shards))
            run = preparation_engines.ENGINES[ENGINE.value]
            workers = WORKERS.value or parallel.available_cores()
            run(plan, workers, lambda videos: bar.advance(task, videos), arguments)
        reports = preparation.finish(plan, settings)
    found = preparation_reports.summarise(reports, settings.max_bad_fraction)
    _show(screen, found, len(plan.shards), time.monotonic() - began)
    screen.print(f"train with --config.data.storage={STORAGE.value} --config.data.storage_root={out}", markup=False)
    if found.too_many:
        total = len(found.failures) + found.videos
        return cli.fail(
            f"{len(found.failures)} of {total} videos failed, {len(found.failures) / total:.1%}, more than "
            f"data.max_bad_fraction = {settings.max_bad_fraction:g}; get them again, or train without them"
        )
    return 0


def _show(screen, found, num_shards: int, seconds: float) -> None:
    from rich import table

    for path, problem, reason in found.failures[:_LISTED]:
        screen.print(f"failed  {ascii(path)[1:-1]}  {problem}: {reason}", markup=False)
    if len(found.failures) > _LISTED:
        screen.print(f"failed  and {len(found.failures) - _LISTED} more, see *.report.json")
    counts = table.Table("converted", table.Column("", justify="right"))
    counts.add_row("videos", str(found.videos))
    for kind, count in found.kinds.items():
        counts.add_row(f"failed: {kind}", str(count))
    counts.add_row("frames", str(found.frames), end_section=True)
    counts.add_row("MB before", f"{found.bytes_before / 1e6:.1f}")
    counts.add_row("MB after", f"{found.bytes_after / 1e6:.1f}")
    counts.add_row("shards", str(num_shards))
    counts.add_row("seconds", f"{seconds:.1f}")
    screen.print(counts)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
