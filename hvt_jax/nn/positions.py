"""Learned vectors: positions, class tokens and the codes that tell a predictor what is asked."""

import jax
import jax.numpy as jnp
from flax import nnx

POSITION_SCALE = 0.5  # std at the start: tokens arrive with std about 1, and order must be readable untrained


class LearnedTable(nnx.Module):
    """`length` learned vectors of `width`."""

    def __init__(self, length: int, width: int, *, rngs: nnx.Rngs, scale: float = POSITION_SCALE):
        self.table = nnx.Param(scale * jax.random.normal(rngs.params(), (length, width)))

    def __call__(self, dtype: jnp.dtype) -> jax.Array:
        """Return all vectors [length, D]."""
        return self.table[...].astype(dtype)

    def look_up(self, indices: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Return the vectors [..., D] at int `indices` [...]."""
        return jnp.take(self.table[...].astype(dtype), indices, axis=0)
