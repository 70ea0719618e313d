"""Random keys for fresh modules, made by one program for all of them instead of one for each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Keys:
    """Hands out given keys one by one, in the place of an `nnx.Rngs` whose only stream is `params`."""

    def __init__(self, keys: jax.Array | None = None):
        self.count, self._keys = 0, keys

    def params(self) -> jax.Array:
        """Return the next key; without keys always the same one, for whoever only counts how many are asked for."""
        self.count += 1
        return jax.random.key(0) if self._keys is None else self._keys[self.count - 1]


def count_keys(build: Callable[..., Any]) -> int:
    """Return how many keys `build(rngs=...)` asks for; nothing is allocated."""
    keys = Keys()
    nnx.eval_shape(lambda: build(rngs=keys))
    return keys.count


def stream_of(key: jax.Array | int, count: int) -> Keys:
    """Return the first `count` keys that `nnx.Rngs(params=key)` hands out."""
    key = jax.random.key(key) if isinstance(key, int) else key
    return Keys(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count)))
