"""A curriculum on the digits in motion: images, then short clips, then the clips of `digits.py` with all four levels.

Each stage is a run that begins with the best checkpoint of the one before. Images are single frames, 1/8 of the pixels
of a clip: there frames learn what a digit looks like, from patches. Short clips of 4 frames add the clip level. The
long ones are the data and the model of `digits.py`, where the sequence level is new. At equal compute, with one seed,
it knew more of the digit and less of the motion than the last stage alone: benchmarks/STUDY.md.

    python -m hvt_jax curriculum --config=configs/curriculum_digits.py --workdir=runs/curriculum

`--dry_run` prints the stages and what will become of every array. What all stages share is in `base`, what differs in
`stages`: `--config.base.data.root=FOLDER`, `--config.stages.long.train.num_epochs=30.0`. A stage is left out by
`--config.order="('short', 'long')"`. `:smoke` makes a minute's test of it. Next: other orders, or
`--config.grow=interpolate`.
"""

from ml_collections import ConfigDict

from configs import default, digits


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = ConfigDict()
    config.base = digits.get_config()  # of all stages
    config.order = ("images", "short", "long")  # of `stages`: those to run, each from the one before
    config.hand_over = "best"  # checkpoint that the next stage begins with: best, by checkpoint.best_metric | last
    config.grow = "rows"  # tables of positions and codes: rows: keep their place, the frame rate stays | interpolate
    config.stages = ConfigDict()  # by name, what differs from the base
    config.stages.images = {
        "data": {"num_frames": 1},
        "model": {"hierarchy": "patch-frame", "num_clips": 1},
        # One frame a video: a patch is chosen among other places, what is one a video among others of the batch.
        "objective": {"place_candidates": 16, "batch_candidates_weight": 1.0, "patch_targets": "uniform"},
        "train": {"num_epochs": 16.0, "max_steps": 0},
        "checkpoint": {"best_metric": "linear/frame/digit/top1"},  # no single image tells the motion
    }
    config.stages.short = {
        "data": {"num_frames": 4},
        "model": {"hierarchy": "patch-frame-clip", "num_clips": 1},
        "train": {"num_epochs": 8.0, "max_steps": 0},
    }
    config.stages.long = {"train": {"num_epochs": 13.0, "max_steps": 0}}
    if default.is_smoke(argument, "configs/curriculum_digits.py"):
        for name in config.order:
            config.stages[name].train.update(num_epochs=2.0, max_steps=20)
    return config.lock()
