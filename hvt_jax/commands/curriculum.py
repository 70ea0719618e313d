"""Train a curriculum: images, then short clips, then longer ones, or other stages, each from the one before.

Every stage is a run of its own in RUN/1_NAME, RUN/2_NAME and so on, with its own hierarchy, data and schedule; it
begins with the best checkpoint of the stage before. All stages are read, and refused, before the first one trains.
`--dry_run` prints the stages and what will become of every array. The same command goes on where one was interrupted.

Examples:
  python -m hvt_jax curriculum --config=configs/curriculum_digits.py --workdir=runs/curriculum
  python -m hvt_jax curriculum --config=configs/curriculum_digits.py --dry_run --config.base.data.root=data/digits
  python -m hvt_jax curriculum --config=configs/curriculum_digits.py --workdir=runs/c --config.base.train.batch_size=32

Exit codes: 0 done, 2 bad config or data; 3 diverged, 4 collapsed, 143 preempted and saved: of the stage under way.
"""

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of a curriculum, e.g. configs/curriculum_digits.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the whole, e.g. runs/curriculum; what is in it is resumed.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the stages and what will become of every array, and stop.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    needed = (CONFIG,) if DRY_RUN.value else (CONFIG, WORKDIR)
    if code := cli.refuse(argv, *needed, example="--config=configs/curriculum_digits.py --workdir=runs/curriculum"):
        return code
    return cli.run(_run, output=WORKDIR.value, resumed="to go on from the last checkpoint")


def _run() -> int:
    from hvt_jax.commands import curriculum_run

    return curriculum_run.run(CONFIG.value, WORKDIR.value, dry_run=DRY_RUN.value)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
