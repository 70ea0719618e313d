"""Separable 3-D convolutions and pooling, written as the 2-D operations they are.

A spatial convolution acts on [B·T, Y, X, C], a temporal one on [B, Y·X, T, C]: both are ordinary 2-D
convolutions, which every backend runs fast, unlike 3-D ones, which are slow on CPU.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn import cpu
from hvt_jax.nn.normalization import BatchNorm

S3D_EPSILON = 1e-3  # of BatchNorm in S3D


class ConvNormRelu(nnx.Module):
    """A convolution without bias, BatchNorm and ReLU, along space (`spatial`) or along time."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        size: int,
        *,
        spatial: bool,
        stride: int = 1,
        momentum: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.spatial, self.size, self.stride, self.dtype = spatial, size, stride, dtype
        kernel = (size, size) if spatial else (size, 1)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, channels_in, channels)))
        self.norm = BatchNorm(channels, momentum=momentum, epsilon=S3D_EPSILON, dtype=dtype, one_pass=True)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map a video to one with other channels; the axes of the kernel shrink by the stride, rounded up.

        Args:
          x: [B, T, Y, X, C]; along time [B, Y, X, T, C].
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
        """
        shape = x.shape
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.size == 1:
            x = (x.reshape(-1, shape[-1]) @ kernel[0, 0]).reshape(*shape[:-1], -1)
        elif self.spatial:
            x = convolve(x, kernel) if self.stride == 1 else convolve_strided(x, kernel, self.stride)
        else:
            x, kernel = x.reshape(shape[0], -1, *shape[3:]), kernel[:, 0]
            x = convolve_time(x, kernel) if self.stride == 1 else convolve_time_strided(x, kernel, self.stride)
            x = x.reshape(*shape[:3], *x.shape[2:])
        return jax.nn.relu(self.norm(x, train=train, valid=valid))


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, T, Y, X, C] over space with a kernel [y, x, C, D] of odd sizes, padded with zeros to the same size.

    On CPU its weight gradient is another, see `cpu`.
    """
    frames = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(frames, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*x.shape[:-1], -1)


def _convolve_backward(kept, gradient):
    return cpu.gradients(convolve.fun, cpu.kernel_gradient, *kept, gradient)


convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), _convolve_backward)


@jax.custom_vjp
def convolve_time(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, N, T, C] over T with a kernel [t, C, D] of odd size at stride 1, padded with zeros to the same T.

    On CPU its weight gradient is another, see `cpu`.
    """
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]), kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    return y.reshape(*x.shape[:3], -1)


def _convolve_time_backward(kept, gradient):
    return cpu.gradients(convolve_time.fun, cpu.time_kernel_gradient, *kept, gradient)


convolve_time.defvjp(lambda x, kernel: (convolve_time(x, kernel), (x, kernel)), _convolve_time_backward)


def convolve_strided(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve as `convolve` does and keep one row and column in `stride`; gradients are jax's own everywhere."""
    frames, padding = x.reshape(-1, *x.shape[2:]), [(size // 2, size // 2) for size in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(frames, kernel, (stride, stride), padding, dimension_numbers=numbers)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def convolve_time_strided(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve as `convolve_time` does and keep one time in `stride`; gradients are jax's own everywhere."""
    rows, padding = x.reshape(-1, *x.shape[2:]), [(kernel.shape[0] // 2, kernel.shape[0] // 2)]
    y = jax.lax.conv_general_dilated(rows, kernel, (stride,), padding, dimension_numbers=("NHC", "HIO", "NHC"))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class SeparableConv(nnx.Module):
    """A spatial and then a temporal ConvNormRelu of the same size (S3D, Xie et al. 2018)."""

    def __init__(self, channels_in: int, channels: int, size: int, **options):
        self.space = ConvNormRelu(channels_in, channels, size, spatial=True, **options)
        self.time = ConvNormRelu(channels, channels, size, spatial=False, **options)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, C] to [B, Y, X, T, C] with other channels; a stride shrinks all three, rounded up."""
        x = self.space(x, train=train, valid=valid)
        return self.time(jnp.moveaxis(x, 1, 3), train=train, valid=valid)


def halve_space(x: jax.Array) -> jax.Array:
    """Max-pool [B, Y, X, T, C] with 3x3 windows and stride 2 to [B, T, ceil(Y/2), ceil(X/2), C].

    See `max_pool`.
    """
    return jnp.moveaxis(max_pool(x, (1, 2), size=3, stride=2), 3, 1)


def max_pool(x: jax.Array, axes: tuple[int, ...], *, size: int, stride: int) -> jax.Array:
    """Max-pool along `axes` with windows of `size` cells, `stride` apart; of odd size around every cell that is kept.

    Separable, over shifted slices: its backward pass is then elementwise instead of the slow
    select-and-scatter of a pooling window. Where values tie, gradients are shared between them.
    """
    for axis in axes:
        x = _max_pool(x, axis, size, stride)
    return x


def _max_pool(x: jax.Array, axis: int, size: int, stride: int) -> jax.Array:
    length, before = x.shape[axis], (size - 1) // 2
    kept = (length + 2 * before - size) // stride + 1
    span = (kept - 1) * stride + 1
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (before, span + size - 1 - length - before, 0)
    padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
    parts = [jax.lax.slice_in_dim(padded, start, start + span, stride, axis) for start in range(size)]
    return functools.reduce(jnp.maximum, parts)
