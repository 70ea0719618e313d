"""The training state as plain dicts, and the one place where a module is split and merged."""

import functools
from typing import Any

import flax.struct
import jax
import optax
from flax import nnx

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.nn import keys
from hvt_jax.settings.model_settings import ModelSettings

Tree = dict[str, Any]
GraphDef = nnx.GraphDef  # named here, so that flax stays in this file


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to go on, and nothing else.

    Attributes:
      step: int32, updates done; keys and the data position follow from it.
      rollbacks: int32, how often an alarm sent the run back; learning rates and keys follow from it, too.
      params: trained parameters, `stem/...` and `levels/<level>/...`.
      stats: running statistics of BatchNorm, by the same paths.
      opt_state: of the optimizer.
      memory: what the method keeps beside them, such as a teacher's parameters; {} for nothing.
    """

    step: jax.Array
    rollbacks: jax.Array
    params: Tree
    stats: Tree
    opt_state: optax.OptState
    memory: Tree = flax.struct.field(default_factory=dict)


def split(pyramid: Pyramid) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Return (graph definition, parameters, statistics); raises if other state hides in the model."""
    graphdef, params, stats = nnx.split(pyramid, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def merge(graphdef: nnx.GraphDef, params: Tree, stats: Tree) -> Pyramid:
    """Return a model over copies of the given arrays; running it does not touch the originals."""
    # copy=True: statistics captured inside jax.grad could not be updated otherwise.
    return nnx.merge(graphdef, params, stats, copy=True)


def statistics(pyramid: Pyramid) -> Tree:
    """Return the running statistics of `pyramid` as they are now."""
    return nnx.to_pure_dict(nnx.state(pyramid, nnx.BatchStat))


def graph_of(build: functools.partial) -> nnx.GraphDef:
    """Return the static part of the model that `build(rngs=...)` returns, without allocating any array."""
    return keys.outline(build).graphdef


def variables_of(build: functools.partial, key: jax.Array | int) -> tuple[Tree, Tree]:
    """Return fresh (parameters, statistics) of `build(rngs=...)`; pure, so it can be compiled with output shardings."""
    return split(build(rngs=keys.stream_of(key, keys.outline(build).num_keys)))[1:]


def graph_definition(settings: ModelSettings, hierarchy: Hierarchy) -> nnx.GraphDef:
    """Return the static part of a pyramid without allocating any array."""
    return graph_of(functools.partial(Pyramid, settings, hierarchy))


def initial_variables(settings: ModelSettings, hierarchy: Hierarchy, *, key: jax.Array | int) -> tuple[Tree, Tree]:
    """Return fresh (parameters, statistics) of a pyramid; pure."""
    return variables_of(functools.partial(Pyramid, settings, hierarchy), key)
