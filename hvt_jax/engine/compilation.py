"""The functions of a run, compiled for the mesh of all devices."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from hvt_jax.engine import sharding, steps
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.steps import Definition


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled functions of a run and how arrays are placed for them.

    Attributes:
      mesh: all devices of all processes.
      key: returns the run's random key, on all devices.
      initialise: returns a fresh state, born sharded.
      train_step: see `steps.build_train_step`; its state argument is donated.
      encode: (params, stats, batch) -> features by level and the batch's other fields, whole on every process.
      abstract_state: shapes, dtypes and shardings of the state.
    """

    mesh: jax.sharding.Mesh
    key: Callable[[], jax.Array]
    initialise: Callable[[], TrainState]
    train_step: Callable
    encode: Callable
    abstract_state: TrainState

    def to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Place this process's share of a batch."""
        return sharding.to_devices(batch, self.mesh)


@functools.cache
def compiler_options() -> dict[str, int]:
    """Return what XLA is asked for beside its defaults: on CPU, to use the widest vectors there are.

    By default it keeps to 256 bits even where there are 512; `python -m benchmarks.train_step` compiles with them, too.
    """
    options = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA may not know the option
        return {}
    return options


def compile_functions(definition: Definition, optimizer: optax.GradientTransformation, *, num_steps: int) -> Compiled:
    """Return the run's functions, compiled for the mesh of all devices."""
    settings = definition.settings
    mesh = sharding.make_mesh(settings.train)
    sharding.check_shared("evaluation.batch_size", settings.evaluation.batch_size)
    whole, cut = sharding.replicated(mesh), sharding.by_batch(mesh)
    initialise = steps.build_initialise(definition, optimizer)
    abstract = jax.eval_shape(initialise, jax.random.key(0))
    placed = sharding.state_sharding(abstract, mesh, settings.train)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, placed)
    train_step = jax.jit(
        steps.build_train_step(definition, optimizer, num_steps=num_steps),
        in_shardings=(placed, cut, whole),
        out_shardings=(placed, whole),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
    encode_videos = steps.build_encode(definition)

    def encode(params, stats, batch):
        rest = {name: value for name, value in batch.items() if name != "video"}
        return {**encode_videos(params, stats, batch["video"]), **rest}

    compiled_encode = jax.jit(
        encode,
        in_shardings=(placed.params, placed.stats, cut),
        out_shardings=whole,
        compiler_options=compiler_options(),
    )
    # Made by compiled functions: a plain array cannot be put on the devices of other processes.
    key = jax.jit(lambda: jax.random.key(settings.seed), out_shardings=whole)
    born = jax.jit(lambda: initialise(jax.random.key(settings.seed)), out_shardings=placed)
    return Compiled(mesh, key, born, train_step, compiled_encode, abstract)
