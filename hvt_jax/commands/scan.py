"""Decode every video of a data set and write down what was found, bad ones and why.

Training reads the manifest and leaves out what is bad. A video that hangs, crashes or eats memory costs only itself.
A second scan looks only at files that are new or have changed, and goes on where an interrupted one stopped.

Example:
  python -m hvt_jax scan --config=configs/folder.py --config.data.root=SOME_FOLDER

Exit codes: 0 done, bad videos or not; 2 bad config or data, or more bad videos than data.max_bad_fraction allows.
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config document, e.g. configs/folder.py.", lock_config=True)
MANIFEST = flags.DEFINE_string("manifest", None, "File to write; otherwise data.manifest, or ROOT/manifest.jsonl.")
_LISTED = 100  # bad videos on the screen; the file has all


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    return cli.refuse(argv, CONFIG, example="--config=configs/folder.py") or cli.run(_scan, output=MANIFEST.value)


def _scan() -> int:
    from rich import console, progress, table

    from hvt_jax.data import manifest
    from hvt_jax.settings import read_settings
    from hvt_jax.tools import scanning

    settings = read_settings(CONFIG.value).data
    path = pathlib.Path(MANIFEST.value) if MANIFEST.value else manifest.find_manifest(settings)
    screen = console.Console(soft_wrap=True, highlight=False)
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=screen) as bar:
        task = bar.add_task("videos", total=None)
        entries = scanning.scan(settings, path, lambda done, total: bar.update(task, completed=done, total=total))
    found = scanning.summarise(entries, settings.max_bad_fraction)
    for entry in found.bad[:_LISTED]:
        screen.print(f"bad  {ascii(entry.path)[1:-1]}  {entry.problem}", markup=False)
    if len(found.bad) > _LISTED:
        screen.print(f"bad  and {len(found.bad) - _LISTED} more, see the file")
    counts = table.Table("videos", table.Column("count", justify="right"))
    counts.add_row("good", str(found.good))
    for kind, count in found.kinds.items():
        counts.add_row(kind, str(count))
    counts.add_row("all", str(len(entries)), end_section=True)
    counts.add_row("hours, good", f"{found.hours:.2f}")
    screen.print(counts)
    if several := sum(entry.video_streams > 1 for entry in entries):
        screen.print(f"{several} files have several video streams; of each the one is read that players show")
    screen.print(f"{path}: {len(entries)} videos, {len(found.bad)} of them bad", markup=False)
    if found.too_many:
        share, allowed = len(found.bad) / len(entries), settings.max_bad_fraction
        return cli.fail(
            f"{len(found.bad)} of {len(entries)} videos are bad, {share:.1%}, more than data.max_bad_fraction = "
            f"{allowed:g}; get them again, or train without them, which {path} lets you do"
        )
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
