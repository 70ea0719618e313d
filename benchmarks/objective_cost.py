"""What choosing among candidates costs: training steps of two objectives on the same model, timed in turns.

    python -m benchmarks.objective_cost --config=configs/digits.py --rounds=20

Prints seconds of a step with the contrastive objective as the config has it, with smooth L1 asked evenly, and the
ratio, by minimum and by median. The model differs in nothing but the predictions up to a single token, which choosing
leaves out.
"""

import argparse
import importlib
import pathlib
import statistics
import sys

import jax
from ml_collections import ConfigDict

from benchmarks.timed_step import TimedStep
from hvt_jax.engine import steps
from hvt_jax.settings import read_settings

REGRESSION = {"objective.distance": "smooth_l1", "objective.patch_targets": "uniform"}


def main() -> int:
    """Compile both steps, run them in turns, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--rounds", type=int, default=20, help="turns of one step each")
    asked = parser.parse_args()
    module = importlib.import_module(".".join(pathlib.Path(asked.config).with_suffix("").parts))
    runs = {"contrastive": _timed(module.get_config(), {}), "smooth_l1": _timed(module.get_config(), REGRESSION)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, run in runs.items():
            seconds[name].append(run.seconds())
    print(f"{asked.config}, {jax.devices()[0].device_kind}, jax {jax.__version__}, {asked.rounds} rounds in turns")
    for name, times in seconds.items():
        print(f"{name:12s} minimum {min(times):.4f} s, median {statistics.median(times):.4f} s a step")
    minima = min(seconds["contrastive"]) / min(seconds["smooth_l1"])
    medians = statistics.median(c / r for c, r in zip(seconds["contrastive"], seconds["smooth_l1"], strict=True))
    print(f"contrastive over smooth_l1: {minima:.3f} by minimum, {medians:.3f} by the median of turns")
    return 0


def _timed(config: ConfigDict, fields: dict[str, str]) -> TimedStep:
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    return TimedStep(steps.define(read_settings(config)))


if __name__ == "__main__":
    sys.exit(main())
