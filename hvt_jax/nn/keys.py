"""Random keys for fresh modules, made by one program for all of them, and what is known of a module before any is."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Keys:
    """Hands out given keys one by one, in the place of an `nnx.Rngs` whose only stream is `params`.

    Attributes:
      count: how many were asked for.
      only_counts: whether there are none, and always the same one is given.
    """

    def __init__(self, keys: jax.Array | None = None):
        self.count, self.only_counts, self._keys = 0, keys is None, keys

    def params(self) -> jax.Array:
        """Return the next key."""
        self.count += 1
        return jax.random.key(0) if self.only_counts else self._keys[self.count - 1]


class Outline(NamedTuple):
    """What a module is before it has numbers: its static part, shapes of its state, and how many keys it wants."""

    graphdef: nnx.GraphDef
    shapes: nnx.State
    num_keys: int


def outline(build: functools.partial) -> Outline:
    """Return the outline of `build(rngs=...)`, whose arguments are hashable; nothing is allocated.

    Tracing a module takes long, so outlines are remembered.
    """
    return _outline(build.func, build.args, tuple(sorted(build.keywords.items())), jax.config.jax_enable_x64)


@functools.lru_cache(maxsize=256)
def _outline(function: Callable[..., Any], arguments: tuple, named: tuple, x64: bool) -> Outline:
    del x64  # which dtypes follow
    keys = Keys()
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: function(*arguments, **dict(named), rngs=keys)))
    return Outline(graphdef, shapes, keys.count)


def stream_of(key: jax.Array | int, count: int) -> Keys:
    """Return the first `count` keys that `nnx.Rngs(params=key)` hands out."""
    key = jax.random.key(key) if isinstance(key, int) else key
    return Keys(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count)))
