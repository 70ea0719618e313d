"""Make the `digits` data set: videos of handwritten digits in eight motions, no download.

Example:
  python -m hvt_jax make_digits --root=data/digits
  python -m hvt_jax make_digits --root=data/digits_large --num_videos=5000 --size=96 --codec=h264

Exit codes: 0 done; 2 bad flags, or a folder that cannot be used.
"""

from absl import app, flags

from hvt_jax.commands import cli
from hvt_jax.tools import digits_files

_ROOT = flags.DEFINE_string("root", "data/digits", "Folder to write; left alone if it holds these videos already.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 3000, "Number of videos, 28 % of them for testing.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 64, "Height and width in pixels, an even number.")
_CODEC = flags.DEFINE_enum("codec", "mpeg4", list(digits_files.CODECS), "mpeg4 makes .avi files, h264 .mp4 files.")
_SEED = flags.DEFINE_integer("seed", 0, "Equal seeds give equal files.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    return cli.refuse(argv) or cli.run(_make, output=_ROOT.value)


def _make() -> int:
    from rich import progress

    spec = digits_files.DigitsSpec(_NUM_VIDEOS.value, _SIZE.value, _CODEC.value, _SEED.value)
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns) as bar:
        task = bar.add_task("videos", total=spec.num_videos)
        made = digits_files.make_digits(_ROOT.value, spec, lambda done: bar.update(task, completed=done))
        bar.update(task, completed=spec.num_videos)
    print(f"{_ROOT.value}: {spec.num_videos} videos " + ("written" if made else "were there already"))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
