"""Separable 3-D convolutions and pooling, written as the 2-D operations they are.

A spatial convolution acts on [B·T, Y, X, C], a temporal one on [B, Y·X, T, C]: both are ordinary 2-D
convolutions, which every backend runs fast, unlike 3-D ones, which are slow on CPU.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn import cpu
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
        """Map a video to one of the same sizes with other channels.

        Args:
          x: [B, T, Y, X, C]; along time [B, Y, X, T, C].
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
        """
        shape = x.shape
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.size == 1:
            x = x.reshape(-1, shape[-1]) @ kernel[0, 0]
        elif self.spatial:
            x = convolve(x, kernel)
        else:
            x = convolve_time(x.reshape(shape[0], -1, *shape[3:]), kernel[:, 0])
        x = x.reshape(*shape[:-1], -1)
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


class SeparableConv(nnx.Module):
    """A spatial and then a temporal ConvNormRelu of the same size (S3D, Xie et al. 2018)."""

    def __init__(self, channels_in: int, channels: int, size: int, **options):
        self.space = ConvNormRelu(channels_in, channels, size, spatial=True, **options)
        self.time = ConvNormRelu(channels, channels, size, spatial=False, **options)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, C] to [B, Y, X, T, C] with other channels."""
        x = self.space(x, train=train, valid=valid)
        return self.time(jnp.moveaxis(x, 1, 3), train=train, valid=valid)


def halve_space(x: jax.Array) -> jax.Array:
    """Max-pool [B, Y, X, T, C] with 3x3 windows and stride 2 to [B, T, ceil(Y/2), ceil(X/2), C].

    Separable, over shifted slices: its backward pass is then elementwise instead of the slow
    select-and-scatter of a pooling window. Where values tie, gradients are shared between them.
    """
    return jnp.moveaxis(_halve(_halve(x, 1), 2), 3, 1)


def _halve(x: jax.Array, axis: int) -> jax.Array:
    length = x.shape[axis]
    half = (length + 1) // 2
    lowest = jnp.array(-jnp.inf, x.dtype)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (1, 2 * half + 1 - length - 1, 0)
    padded = jax.lax.pad(x, lowest, padding)
    parts = [jax.lax.slice_in_dim(padded, start, start + 2 * half - 1, 2, axis) for start in range(3)]
    return jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
