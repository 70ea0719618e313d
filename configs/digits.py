"""Handwritten digits in motion: the demo, a few minutes on two CPU cores, no download.

Trains four levels, patch-frame-clip-sequence, on 3,000 generated videos of eight motions in time-reversed pairs
(`python -m hvt_jax make_digits`). The first label is the motion, which no single frame and no
unordered set of frames can tell (a frame-level average is at best right half of the time); the second is the digit.
What to expect, with the command that measured it, is in README.md.

    python -m hvt_jax.main --config=configs/digits.py --workdir=runs/digits

`:smoke` makes a minute's test of it. Next: `--config.train.num_epochs=45.0`, the rows of benchmarks/STUDY.md, or
`ucf.py`. Choose settings with `--config.data.split=2`, whose test videos are training videos of split 1.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_config()
    # Mirroring would turn a motion into its opposite.
    config.augmentation.flip_probability = 0.0
    # Videos this small decode faster than processes can hand them over.
    config.data.update(num_workers=0, read_threads=2, cache_gib=2.0)
    # Half the frames of the default, as far apart as makes the same stretch: twice the steps in the same minutes.
    config.data.update(num_frames=8, frame_stride=4)
    config.model.stem.patch_size = 16
    config.optimizer.learning_rate = 2e-3
    # What other methods put on top of the levels, in the papers' proportions: their encoders are 3 to 16 times as wide.
    config.svt.update(local_frames=4, local_stride=4, hidden=256, bottleneck=64, prototypes=1024)
    config.brave.update(narrow_stride=2, broad_frames=16, broad_stride=2, hidden=256, width=128)
    for filler in (config.jepa.predictor, config.mae.decoder):
        filler.update(width=64, depth=2, num_heads=4)
    config.train.update(batch_size=64, num_epochs=15.0)
    config.evaluation.update(schedule="linear", interval=10.0)
    config.evaluation.reversed_pairs = ("Right/Left", "Down/Up", "Clockwise/CounterClockwise", "Grow/Shrink")
    if default.is_smoke(argument, "configs/digits.py"):
        config.train.num_epochs = 2.0
        config.train.max_steps = 20
    return config
