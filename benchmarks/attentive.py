"""What 20 settings of the attentive probe cost over one, side by side.

    python -m benchmarks.attentive --level=frame

A network of the size of configs/ucf.py (in float32) makes tokens of random videos; then the probe trains on them for 20
epochs with one setting and with all 20, in turns, and the fastest of each counts. Prints seconds and two ratios: of the
training alone, and of the protocol, which makes the tokens first.
"""

import argparse
import time

import jax
import numpy as np

from configs import ucf
from hvt_jax.engine import compilation, sharding, steps
from hvt_jax.evaluation import attentive, grid_probes
from hvt_jax.evaluation.grid_probes import Schedule
from hvt_jax.settings import read_settings

CLASSES = 101


def _tokens(level: str, videos: int, batch: int) -> tuple[np.ndarray, float]:
    """Return tokens [videos, N, D] and the seconds that they took, compiling not counted."""
    config = ucf.get_config().unlock()
    config.model.compute_dtype = "float32"
    settings = read_settings(config.lock())
    definition = steps.define(settings)
    params, stats = jax.jit(lambda: steps.initial_variables(definition, 0))()
    encode = compilation.compile_encode(steps.build_tokens(definition), sharding.make_mesh(settings.train))
    data = settings.data
    shape = (batch, data.num_frames, data.height, data.width, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    jax.block_until_ready(encode(params, stats, {"video": video}))
    started = time.perf_counter()
    parts = [np.asarray(encode(params, stats, {"video": video})[level]) for _ in range(videos // batch)]
    return np.concatenate(parts), time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="frame")
    for name, size in {"videos": 64, "batch": 16, "turns": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args()
    tokens, made = _tokens(given.level, given.videos, given.batch)
    labels = np.random.default_rng(1).integers(0, CLASSES, len(tokens))
    probe = attentive.make_probe(tokens.shape[-1], CLASSES)
    schedule = Schedule(given.batch, attentive.SCHEDULE.epochs, 1, attentive.SCHEDULE.most)
    seconds = {1: [], len(attentive.SETTINGS): []}
    for turn in range(given.turns + 1):
        for count, measured in seconds.items():
            started = time.perf_counter()
            fitted = grid_probes.fit(
                probe,
                tokens,
                labels,
                np.arange(len(tokens)),
                num_classes=CLASSES,
                settings=attentive.SETTINGS[:count],
                schedule=schedule,
            )
            jax.block_until_ready(fitted)
            if turn:  # the first one compiles
                measured.append(time.perf_counter() - started)
    one, all_of_them = (min(measured) for measured in seconds.values())
    print(f"{len(tokens)} videos of {tokens.shape[1]} x {tokens.shape[2]} tokens, {schedule.steps(len(tokens))} steps")
    print(
        f"tokens {made:.2f} s, training 1 setting {one:.2f} s, {len(attentive.SETTINGS)} settings {all_of_them:.2f} s"
    )
    print(f"ratio of the training {all_of_them / one:.2f}, of the protocol {(made + all_of_them) / (made + one):.2f}")


if __name__ == "__main__":
    main()
