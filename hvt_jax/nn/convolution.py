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
        else:
            x = convolve(x.reshape((-1, *shape[2:]) if self.spatial else (*shape[:2], -1, shape[-1])), kernel)
        x = x.reshape(*shape[:-1], -1)
        return jax.nn.relu(self.norm(x, train=train, valid=valid))


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, Y, X, C] with a kernel [y, x, C, D] of odd sizes at stride 1, padded with zeros to the same size.

    Its weight gradient is written as one matrix product per row of the kernel. Derived by jax it would
    be a convolution whose window is the whole map, which is slow on CPU: `python -m
    benchmarks.convolution` shows by how much.
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(kept, gradient):
    x, kernel = kept
    plain = convolve.fun  # without this rule, so that jax can transpose it
    (gradient_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
    return gradient_x, _kernel_gradient(x, gradient, kernel.shape).astype(kernel.dtype)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rows, columns, channels_in, channels = shape
    height, width = x.shape[1:3]
    half = columns // 2
    # What each column of the kernel sees, side by side: [B, Y, X, x·C].
    padded = jnp.pad(x, ((0, 0), (0, 0), (half, half), (0, 0)))
    seen = jnp.concatenate([padded[:, :, shift : shift + width] for shift in range(columns)], axis=-1)
    parts = []
    for shift in range(-(rows // 2), rows // 2 + 1):
        first, last = max(0, -shift), max(0, -shift, min(height, height - shift))
        left = seen[:, first + shift : last + shift].reshape(-1, columns * channels_in)
        parts.append(left.T @ gradient[:, first:last].reshape(-1, channels))
    return jnp.stack(parts).reshape(shape)


convolve.defvjp(_convolve_forward, _convolve_backward)


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
