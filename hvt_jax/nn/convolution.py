"""Separable 3-D convolutions and pooling, written as the 2-D operations they are.

A spatial convolution acts on [B·T, Y, X, C], a temporal one on [B, T, Y·X, C]: both are ordinary 2-D
convolutions, which every backend runs fast, unlike 3-D ones, which are slow on CPU.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn.normalization import BatchNorm

S3D_EPSILON = 1e-3  # of BatchNorm in S3D


class ConvNormRelu(nnx.Module):
    """A convolution without bias, BatchNorm and ReLU, along space (`spatial`) or along time."""

    def __init__(
        self, channels_in: int, channels: int, size: int, *, spatial: bool, momentum: float, dtype, rngs: nnx.Rngs
    ):
        self.spatial, self.size, self.dtype = spatial, size, dtype
        kernel = (size, size) if spatial else (size, 1)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, channels_in, channels)))
        self.norm = BatchNorm(channels, momentum=momentum, epsilon=S3D_EPSILON, dtype=dtype, one_pass=True)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, C] to the same sizes with other channels; `valid` bool [B] masks examples."""
        shape = x.shape
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.size == 1:
            x = x.reshape(-1, shape[-1]) @ kernel[0, 0]
        elif self.spatial:
            x = convolve(x.reshape(-1, *shape[2:]), kernel)
        else:
            x = convolve_time(x.reshape(*shape[:2], -1, shape[-1]), kernel)
        x = x.reshape(*shape[:-1], -1)
        return jax.nn.relu(self.norm(x, train=train, valid=valid))


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, Y, X, C] with a kernel [y, x, C, D] at stride 1, padded with zeros to the same size."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def convolve_time(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, T, N, C] along T with a kernel [t, 1, C, D] of odd size; as `convolve`.

    Its weight gradient is written as one matrix product per tap. Derived by jax it would be a
    convolution whose window is the whole map, which is slow on CPU: `python -m
    benchmarks.convolution` shows by how much.
    """
    return convolve(x, kernel)


def _convolve_time_forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _convolve_time_backward(kept, gradient):
    x, kernel = kept
    (gradient_x,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(gradient)
    length, taps = x.shape[1], kernel.shape[0]
    parts = []
    for shift in range(-(taps // 2), taps // 2 + 1):
        first, last = max(0, -shift), min(length, length - shift)
        seen = x[:, first + shift : last + shift].reshape(-1, x.shape[-1])
        parts.append(seen.T @ gradient[:, first:last].reshape(-1, gradient.shape[-1]))
    return gradient_x, jnp.stack(parts)[:, None].astype(kernel.dtype)


convolve_time.defvjp(_convolve_time_forward, _convolve_time_backward)


class SeparableConv(nnx.Module):
    """A spatial and then a temporal ConvNormRelu of the same size (S3D, Xie et al. 2018)."""

    def __init__(self, channels_in: int, channels: int, size: int, **options):
        self.space = ConvNormRelu(channels_in, channels, size, spatial=True, **options)
        self.time = ConvNormRelu(channels, channels, size, spatial=False, **options)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, C] to the same sizes with other channels."""
        return self.time(self.space(x, train=train, valid=valid), train=train, valid=valid)


def halve_space(x: jax.Array) -> jax.Array:
    """Max-pool [B, T, Y, X, C] with 3x3 windows and stride 2 to [B, T, ceil(Y/2), ceil(X/2), C].

    Separable, over shifted slices: its backward pass is then elementwise instead of the slow
    select-and-scatter of a pooling window. Where values tie, gradients are shared between them.
    """
    return _halve(_halve(x, 2), 3)


def _halve(x: jax.Array, axis: int) -> jax.Array:
    length = x.shape[axis]
    half = (length + 1) // 2
    lowest = jnp.array(-jnp.inf, x.dtype)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (1, 2 * half + 1 - length - 1, 0)
    padded = jax.lax.pad(x, lowest, padding)
    parts = [jax.lax.slice_in_dim(padded, start, start + 2 * half - 1, 2, axis) for start in range(3)]
    return jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
