"""A compiled training step on random videos, to be timed in turns with others."""

import time

import jax
import numpy as np

from hvt_jax.engine import compilation, optim, steps

_NUM_STEPS = 1000


def random_batch(definition: steps.Definition) -> dict:
    """Return what a step reads of a batch, on the device: random videos, all valid."""
    shapes = steps.batch_shapes(definition, definition.settings.train.batch_size)
    batch = jax.tree.map(lambda shape: np.ones(shape.shape, shape.dtype), shapes)
    draw = np.random.default_rng(0).integers
    batch["video"] = jax.tree.map(lambda shape: draw(0, 256, shape.shape, np.uint8), shapes["video"])
    return jax.device_put(batch)


class TimedStep:
    """The step of a run, as the run compiles it, and its state.

    Attributes:
      batch_size: videos a step.
      temporary_bytes: what the compiled step needs beside its arguments and results, as the compiler says.
    """

    def __init__(self, definition: steps.Definition):
        """Compile the step and take it once."""
        settings = definition.settings
        optimizer = optim.build_optimizer(
            settings.optimizer, definition.groups, steps_per_epoch=100, num_steps=_NUM_STEPS
        )
        self.batch_size = settings.train.batch_size
        self._batch = random_batch(definition)
        self._state = jax.jit(steps.build_initialise(definition, optimizer))(jax.random.key(0))
        step = jax.jit(steps.build_train_step(definition, optimizer, num_steps=_NUM_STEPS), donate_argnums=0)
        lowered = step.lower(self._state, self._batch, jax.random.key(1))
        self._step = lowered.compile(compiler_options=compilation.compiler_options())
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes
        self.seconds()

    def seconds(self) -> float:
        """Return the seconds of one step, until its result is there."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch, jax.random.key(1))
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start
