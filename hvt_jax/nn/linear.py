"""The linear map."""

import jax
import jax.numpy as jnp
from flax import nnx


class Linear(nnx.Module):
    """y = x W + b over the last axis, as one product of two matrices.

    All leading axes become rows first. `nnx.Linear` contracts over every leading axis instead, whose
    weight gradient XLA:CPU does not recognise as a matrix product: `python -m
    benchmarks.linear` shows by how much. On other backends the two are alike.
    """

    def __init__(self, width_in: int, width_out: int, *, use_bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype, self.width_out = dtype, width_out
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (width_in, width_out)))
        self.bias = nnx.Param(jnp.zeros(width_out)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., width_in] to [..., width_out] in `dtype`."""
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = rows @ self.kernel[...].astype(self.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype)
        return y.reshape(*x.shape[:-1], self.width_out)
