"""A sweep on the digits demo: two learning rates, three seeds each, six short runs and a table.

Only 100 steps a run: it shows how a sweep is written, not which rate is best in the long run. The six took 32 minutes
on two CPU cores that had other work, too. Settings are chosen on split 2, whose test videos are training videos of
split 1. What it found, and what else a sweep can be, is in docs/sweeps.md.

    python -m hvt_jax sweep --config=configs/sweep_digits.py --workdir=runs/sweep_digits

`:smoke` makes 20 steps of each run. Next: a second field in the grid, or `--seeds=0,1,2,3,4`.
"""

from ml_collections import ConfigDict

from configs import default, digits


def get_config(argument: str = "") -> ConfigDict:
    """Return the config that all runs share; `argument` is empty or `smoke`."""
    is_smoke = default.is_smoke(argument, "configs/sweep_digits.py")
    config = digits.get_config()
    config.data.split = 2
    config.train.max_steps = 20 if is_smoke else 100
    config.evaluation.interval = 1000.0  # epochs: before the first step and after the last, no more
    return config


def get_sweep() -> dict:
    """Return what is swept: every combination of the values, with every seed."""
    return {
        "grid": {"optimizer.learning_rate": (5e-4, 2e-3)},
        "seeds": (0, 1, 2),
    }
