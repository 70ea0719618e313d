"""Normalisation over rows or features, with masks and float32 statistics."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.Module):
    """Batch normalisation of the last axis over all others, ignoring masked rows.

    Under `jax.jit` with a sharded batch the statistics are those of the *global* batch. Rows of one
    video see each other, and examples of a batch see each other: `stop_gradient` between levels does
    not change that. Normalises with the biased variance and keeps the unbiased one, as torch does.
    """

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: jnp.dtype = jnp.float32,
        one_pass: bool = False,
    ):
        self.momentum, self.epsilon, self.dtype, self.one_pass = momentum, epsilon, dtype, one_pass
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.zeros(width))
        self.var = nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        """Normalise `x` [..., D]; in training also move the running statistics.

        Args:
          x: values.
          train: use the statistics of this batch rather than the running ones.
          valid: bool [B] for x [B, ..., D]; rows of videos that are False do not count.
        """
        mean, var = self.mean[...], self.var[...]
        if train:
            mean, var = self._batch_statistics(x, valid)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.one_pass:  # x itself is kept for the backward pass, not the difference to the mean as well
            return (x * scale + (self.bias[...] - mean * scale)).astype(self.dtype)
        return ((x - mean) * scale + self.bias[...]).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        count = x.size // x.shape[-1]
        if valid is not None:
            count = jnp.maximum(valid.sum() * (count // x.shape[0]), 1).astype(x.dtype)
        mean = _sum_rows(x, valid) / count
        # Tokens of a level may vary little around a large mean, where E[x^2] - E[x]^2 loses all digits:
        # they take a second pass. The wide maps of the conv stem do not, and one pass is cheaper there.
        if self.one_pass:
            var = jnp.maximum(_sum_rows(jnp.square(x), valid) / count - jnp.square(mean), 0.0)
        else:
            var = _sum_rows(jnp.square(x - mean), valid) / count
        unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))
        keep = self.momentum
        self.mean[...] = keep * self.mean[...] + (1 - keep) * jax.lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + (1 - keep) * jax.lax.stop_gradient(unbiased)
        return mean, var


def _sum_rows(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Return the sum [D] of all rows of `x` [B, ..., D] whose video is valid [B].

    Videos are summed first and masked then: a mask of the size of `x` would cost as much as `x`.
    """
    if valid is None:
        return x.sum(tuple(range(x.ndim - 1)))
    sums_BD = x.sum(tuple(range(1, x.ndim - 1)))
    return jnp.where(valid[:, None], sums_BD, 0).sum(0)


class LayerNorm(nnx.Module):
    """Layer normalisation of the last axis; takes and ignores what BatchNorm needs."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, dtype: jnp.dtype = jnp.float32):
        self.epsilon, self.dtype = epsilon, dtype
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalise every row of `x` [..., D] by itself."""
        del train, valid
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return (standardise(x.astype(wide), self.epsilon) * self.scale[...] + self.bias[...]).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardise(x: jax.Array, epsilon: float) -> jax.Array:
    """Give every row of `x` [..., D] mean 0 and variance 1.

    Its gradient is written out: derived by jax it goes over the rows about twice as often.
    """
    return _standardise_forward(x, epsilon)[0]


def _standardise_forward(x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    standard = centred * inverse_deviation
    return standard, (standard, inverse_deviation)


def _standardise_backward(epsilon, kept, gradient):
    del epsilon
    standard, inverse_deviation = kept
    along = (gradient * standard).mean(-1, keepdims=True)
    return ((gradient - gradient.mean(-1, keepdims=True) - standard * along) * inverse_deviation,)


standardise.defvjp(_standardise_forward, _standardise_backward)


def make_norm(kind: str, width: int, dtype: jnp.dtype) -> nnx.Module | None:
    """Return the norm named `batch`, `layer` or `none`; None for the last."""
    if kind == "none":
        return None
    return {"batch": BatchNorm, "layer": LayerNorm}[kind](width, dtype=dtype)


def apply_norm(norm: nnx.Module | None, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
    """Return `norm(x)`, or `x` where there is no norm."""
    return x if norm is None else norm(x, train=train, valid=valid)
