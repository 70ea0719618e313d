"""Separable 3-D convolutions and pooling, written as the 2-D operations they are.

A spatial convolution acts on [B·T, Y, X, C], a temporal one on [B, Y·X, T, C]: both are ordinary 2-D
convolutions, which every backend runs fast, unlike 3-D ones, which are slow on CPU.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn.normalization import BatchNorm

S3D_EPSILON = 1e-3  # of BatchNorm in S3D
_MOST_FRAMES_AT_ONCE = 8  # above, too few blocks of a product of all frames with all frames are used


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

    On CPU its weight gradient is written as matrix products. Derived by jax it would be a convolution
    whose window is the whole map, which is slow there: `python -m benchmarks.convolution` shows by how much.
    """
    frames = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(frames, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*x.shape[:-1], -1)


def _convolve_backward(kept, gradient):
    return _gradients(convolve.fun, _kernel_gradient, *kept, gradient)


def _gradients(plain, written, x, kernel, gradient):
    """Return the gradients of `plain`, a convolution without a rule of its own, and on CPU `written` for the kernel."""
    (gradient_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)

    def derived(x, gradient):
        return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)[0]

    def on_cpu(x, gradient):
        return written(x, gradient, kernel.shape).astype(kernel.dtype)

    return gradient_x, jax.lax.platform_dependent(x, gradient, cpu=on_cpu, default=derived)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rows, columns, channels_in, channels = shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # A product of what all columns of the kernel see with what all its rows make has every weight in it. Of a
    # picture's few channels it is cheaper to see all rows, too, than to widen the gradient.
    few = columns * channels_in < channels

    def add_frame(total, time):
        seen, made = _side_by_side(x[:, time], 2, range(columns)), gradient[:, time]
        if few:
            seen = _side_by_side(seen, 1, range(rows))
        else:
            made = _side_by_side(made, 1, reversed(range(rows)))
        seen, made = seen.reshape(-1, seen.shape[-1]), made.reshape(-1, made.shape[-1])
        return total + jnp.matmul(seen.T, made, preferred_element_type=dtype), None

    # Frame by frame, so that what lies side by side stays in the caches; over T, as B may be spread over devices.
    order = (rows, columns, channels_in, 1, channels) if few else (1, columns, channels_in, rows, channels)
    sizes = math.prod(order[:3]), math.prod(order[3:])
    total, _ = jax.lax.scan(add_frame, jnp.zeros(sizes, dtype), jnp.arange(x.shape[1]))
    return total.reshape(order).transpose(0, 3, 1, 2, 4).reshape(shape)


def _side_by_side(x: jax.Array, axis: int, shifts: Iterable[int]) -> jax.Array:
    """Return `x` [B, Y, X, C], padded with zeros and shifted along an axis, once a shift: [B, Y, X, shifts·C]."""
    shifts = list(shifts)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (len(shifts) // 2, len(shifts) // 2)
    padded = jnp.pad(x, padding)
    parts = [jax.lax.slice_in_dim(padded, shift, shift + x.shape[axis], axis=axis) for shift in shifts]
    return jnp.stack(parts, axis=3).reshape(*x.shape[:3], -1)


convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), _convolve_backward)


@jax.custom_vjp
def convolve_time(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [B, N, T, C] over T with a kernel [t, C, D] of odd size at stride 1, padded with zeros to the same T.

    On CPU its weight gradient is written as products, too. Of few frames every one meets every other in one product
    of which only some blocks are used: still less work than cutting out the frames that each weight sees.
    """
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]), kernel, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    return y.reshape(*x.shape[:3], -1)


def _convolve_time_backward(kept, gradient):
    return _gradients(convolve_time.fun, _time_kernel_gradient, *kept, gradient)


def _time_kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    frames, size = x.shape[2], shape[0]
    # For each weight the frames of x it sees, and the frames of the result it makes of them.
    offsets = [shift - size // 2 for shift in range(size)]
    pairs = [(slice(max(0, o), min(frames, frames + o)), slice(max(0, -o), min(frames, frames - o))) for o in offsets]
    if frames > _MOST_FRAMES_AT_ONCE:
        return jnp.stack([jnp.einsum("bntc,bntd->cd", x[:, :, seen], gradient[:, :, made]) for seen, made in pairs])
    rows = x.size // (frames * x.shape[3])
    products_TCUD = (x.reshape(rows, -1).T @ gradient.reshape(rows, -1)).reshape(frames, x.shape[3], frames, -1)
    return jnp.stack([jnp.trace(products_TCUD, offset=-offset, axis1=0, axis2=2) for offset in offsets])


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
