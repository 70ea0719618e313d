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
def compiler_options(deterministic: bool = False) -> dict[str, int | str]:
    """Return what XLA is asked for beside its defaults: on CPU what `benchmarks.train_step` showed to be faster.

    `deterministic` is `train.deterministic`; on a CPU every program gives the same bits without being asked.
    """
    if jax.default_backend() == "gpu" and deterministic:
        return {"xla_gpu_deterministic_ops": True}
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, int | str] = {"xla_cpu_prefer_vector_width": 512}  # else 256 bits, where there are 512, too
    if jax.__version_info__ < (0, 11):
        # YNNPACK for sums alone: it runs convolutions on one thread, is no quicker with products, and wrong with those
        # with a constant (findings/xla_cpu_product_with_ones.sh).
        options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_REDUCE"
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def quick_compiler_options() -> dict[str, int | str]:
    """Return what XLA is asked for where compiling takes longer than running: on CPU fewer optimisations by LLVM.

    For programs whose time goes into matrix products, which come from libraries, not from LLVM, or that run once.
    """
    name, value = "xla_backend_optimization_level", 1
    return {name: value} if jax.default_backend() == "cpu" and _is_known(name, value) else {}


def _is_known(name: str, value: int | str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA
        return False
    return True


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
        compiler_options=compiler_options(settings.train.deterministic),
    )
    compiled_encode = compile_encode(steps.build_encode(definition), mesh, placed.params, placed.stats)
    # Made by compiled functions: a plain array cannot be put on the devices of other processes.
    key = jax.jit(lambda: jax.random.key(settings.seed), out_shardings=whole)
    born = jax.jit(
        lambda: initialise(jax.random.key(settings.seed)),
        out_shardings=placed,
        compiler_options=quick_compiler_options(),
    )
    return Compiled(mesh, key, born, train_step, compiled_encode, abstract)


def compile_encode(encode_videos: Callable, mesh: jax.sharding.Mesh, params=None, stats=None) -> Callable:
    """Return `encode(params, stats, batch)`: what `encode_videos(params, stats, video)` does, and the batch's rest.

    Args:
      encode_videos: returns a dict of arrays, such as `steps.build_encode`.
      mesh: all devices of all processes; the batch is cut along it, what is returned is whole on every process.
      params: their sharding; None if they are whole everywhere.
      stats: the same of the statistics.
    """
    whole, cut = sharding.replicated(mesh), sharding.by_batch(mesh)

    def encode(params, stats, batch):
        rest = {name: value for name, value in batch.items() if name != "video"}
        return {**encode_videos(params, stats, batch["video"]), **rest}

    return jax.jit(
        encode,
        in_shardings=(whole if params is None else params, whole if stats is None else stats, cut),
        out_shardings=whole,
        compiler_options=compiler_options(),
    )
