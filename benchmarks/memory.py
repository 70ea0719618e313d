"""Memory of a training step beside its arguments and results, as the compiler plans it; nothing is run.

    python -m benchmarks.memory --case=vit --batch=2
    python -m benchmarks.memory --case=vit --batch=2 --rows=local,joint

Rows are the step of `benchmarks.train_step`'s case by method: `local`, `joint`, both also with the frame level in
pieces (`model.frame.groups_at_once`), and with a video 10 times as long. The default objective, layers scanned.
"""

import argparse
import dataclasses
import datetime
import sys

import jax

from benchmarks import train_step
from hvt_jax.engine import compilation, optim, steps

ROWS = {
    # name: (method, frames of every video at once, times as many frames)
    "joint": ("joint", 0, 1),
    "local": ("local", 0, 1),
    "local in pieces of 4": ("local", 4, 1),
    "joint in pieces of 4": ("joint", 4, 1),
    "local in pieces of 4 and 10 times as long": ("local", 4, 10),
    "local in pieces of 16 and 10 times as long": ("local", 16, 10),
    "local and 10 times as long": ("local", 0, 10),
}


def main() -> int:
    """Compile every row, print its memory over that of `joint`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="vit", choices=tuple(train_step.CASES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", default="all", help=", ".join(ROWS))
    asked = parser.parse_args()
    machine = f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {datetime.date.today()}"
    print(f"{asked.case}, batch {asked.batch}, {asked.dtype}, {machine}\n")
    print("| step | temporaries MiB | over the first row |\n|---|---:|---:|", flush=True)
    first = 0.0
    for name in ROWS if asked.rows == "all" else asked.rows.split(","):
        method, at_once, times = ROWS[name]
        row = {"method": method, "at_once": at_once, "times": times}
        temporaries = measure(define(asked.case, asked.batch, asked.dtype, **row)) / 2**20
        first = first or temporaries
        print(f"| {name} | {temporaries:.0f} | {temporaries / first:.2f} |", flush=True)
    return 0


def define(
    case: str,
    batch: int,
    dtype: str,
    *,
    method: str = "local",
    at_once: int = 0,
    times: int = 1,
    attention: str = "xla",
) -> steps.Definition:
    """Return a case of `benchmarks.train_step` with the default objective and layers scanned.

    Args:
      case: its name.
      batch: videos a step.
      dtype: of the arithmetic.
      method: of training.
      at_once: `groups_at_once` of the frame level.
      times: as many times as many frames, in as many times as many clips.
      attention: `model.attention`.
    """
    settings = train_step.our_settings(case, dtype, batch, objective={})
    model, data = settings.model, settings.data
    levels = {
        name: dataclasses.replace(getattr(model, name), scan=True, groups_at_once=at_once if name == "frame" else 0)
        for name in ("frame", "clip", "sequence")
    }
    model = dataclasses.replace(model, **levels, num_clips=model.num_clips * times, attention=attention)
    data = dataclasses.replace(data, num_frames=data.num_frames * times)
    return steps.define(dataclasses.replace(settings, method=method, model=model, data=data))


def measure(definition: steps.Definition) -> int:
    """Return the bytes of temporaries of one step."""
    settings = definition.settings
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, steps_per_epoch=100, num_steps=1000)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(steps.build_initialise(definition, optimizer), key)
    step = jax.jit(steps.build_train_step(definition, optimizer, num_steps=1000), donate_argnums=0)
    lowered = step.lower(state, steps.batch_shapes(definition, settings.train.batch_size), key)
    compiled = lowered.compile(compiler_options=compilation.compiler_options())
    return compiled.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    sys.exit(main())
