"""The linear map."""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn.normalization import LayerNorm, standardise


class Linear(nnx.Module):
    """y = x W + b over the last axis, as one product of two matrices.

    All leading axes become rows first. `nnx.Linear` contracts over every leading axis instead, whose
    weight gradient XLA:CPU does not recognise as a matrix product: `python -m
    benchmarks.linear` shows by how much. On other backends the two are alike.
    """

    def __init__(self, width_in: int, width_out: int, *, use_bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (width_in, width_out)))
        self.bias = nnx.Param(jnp.zeros(width_out)) if use_bias else None

    def __call__(self, x: jax.Array, norm: LayerNorm | None = None, columns: slice = slice(None)) -> jax.Array:
        """Map [..., width_in] to [..., width_out] in `dtype`; with `norm`, map `norm(x)`.

        The norm's own scale and bias go into the small matrix rather than over every row: W' = scale W
        and b' = b + bias W. With `columns` only those of the outputs are made.
        """
        kernel, bias = self.kernel[:, columns], None if self.bias is None else self.bias[columns]
        if norm is not None:
            x = standardise(x.astype(jnp.promote_types(x.dtype, jnp.float32)), norm.epsilon)
            shift = norm.bias[...] @ kernel
            bias = shift if bias is None else bias + shift
            kernel = norm.scale[...][:, None] * kernel
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = rows @ kernel.astype(self.dtype)
        if bias is not None:
            y = y + bias.astype(self.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])
