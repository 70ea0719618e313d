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
import time

import jax
import numpy as np

from hvt_jax.engine import compilation, optim, steps
from hvt_jax.settings import read_settings

REGRESSION = {"objective.distance": "smooth_l1", "objective.patch_targets": "uniform"}


def main() -> int:
    """Compile both steps, run them in turns, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--rounds", type=int, default=20, help="turns of one step each")
    asked = parser.parse_args()
    module = importlib.import_module(".".join(pathlib.Path(asked.config).with_suffix("").parts))
    runs = {"contrastive": _Steps(module.get_config(), {}), "smooth_l1": _Steps(module.get_config(), REGRESSION)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, run in runs.items():
            seconds[name].append(run.step())
    print(f"{asked.config}, {jax.devices()[0].device_kind}, jax {jax.__version__}, {asked.rounds} rounds in turns")
    for name, times in seconds.items():
        print(f"{name:12s} minimum {min(times):.4f} s, median {statistics.median(times):.4f} s a step")
    minima = min(seconds["contrastive"]) / min(seconds["smooth_l1"])
    medians = statistics.median(c / r for c, r in zip(seconds["contrastive"], seconds["smooth_l1"], strict=True))
    print(f"contrastive over smooth_l1: {minima:.3f} by minimum, {medians:.3f} by the median of turns")
    return 0


class _Steps:
    """A compiled training step and its state."""

    def __init__(self, config, fields: dict[str, str]):
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(fields)
        definition = steps.define(read_settings(config))
        sizes = {"steps_per_epoch": 100, "num_steps": 1000}
        optimizer = optim.build_optimizer(definition.settings.optimizer, definition.groups, **sizes)
        data, batch = definition.settings.data, definition.settings.train.batch_size
        pixels = np.random.default_rng(0).integers(
            0, 256, (batch, data.num_frames, data.height, data.width, 3), np.uint8
        )
        self._batch = jax.device_put({"video": pixels, "valid": np.ones(batch, bool)})
        self._state = jax.jit(steps.build_initialise(definition, optimizer))(jax.random.key(0))
        step = jax.jit(steps.build_train_step(definition, optimizer, num_steps=1000), donate_argnums=0)
        lowered = step.lower(self._state, self._batch, jax.random.key(1))
        self._step = lowered.compile(compiler_options=compilation.compiler_options())
        self.step()

    def step(self) -> float:
        """Return the seconds of one step, until its result is there."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch, jax.random.key(1))
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
