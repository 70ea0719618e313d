"""What is written for CPU alone, behind one switch: weight gradients of convolutions as matrix products.

Derived by jax they would be convolutions whose window is the whole map, which is slow there:
`python -m benchmarks.convolution` shows by how much. On other backends jax's own are used.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

WRITTEN = True  # False: jax's own on CPU, too
_MOST_FRAMES_AT_ONCE = 8  # above, too few blocks of a product of all frames with all frames are used


def gradients(plain, written, x, kernel, gradient):
    """Return the gradients of `plain`, a convolution without a rule of its own, and on CPU `written` for the kernel."""
    (gradient_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)

    def derived(x, gradient):
        return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)[0]

    def on_cpu(x, gradient):
        return written(x, gradient, kernel.shape).astype(kernel.dtype)

    if not WRITTEN:
        return gradient_x, derived(x, gradient)
    return gradient_x, jax.lax.platform_dependent(x, gradient, cpu=on_cpu, default=derived)


def kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the gradient of the kernel, of `shape` [y, x, C, D], of a convolution of [B, T, Y, X, C] over space."""
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


def time_kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the gradient of the kernel, of `shape` [t, C, D], of a convolution of [B, N, T, C] over time.

    Of few frames every one meets every other in one product of which only some blocks are used: still less work than
    cutting out the frames that each weight sees.
    """
    frames, size = x.shape[2], shape[0]
    # For each weight the frames of x it sees, and the frames of the result it makes of them.
    offsets = [shift - size // 2 for shift in range(size)]
    pairs = [(slice(max(0, o), min(frames, frames + o)), slice(max(0, -o), min(frames, frames - o))) for o in offsets]
    if frames > _MOST_FRAMES_AT_ONCE:
        return jnp.stack([jnp.einsum("bntc,bntd->cd", x[:, :, seen], gradient[:, :, made]) for seen, made in pairs])
    rows = x.size // (frames * x.shape[3])
    products_TCUD = (x.reshape(rows, -1).T @ gradient.reshape(rows, -1)).reshape(frames, x.shape[3], frames, -1)
    return jnp.stack([jnp.trace(products_TCUD, offset=-offset, axis1=0, axis2=2) for offset in offsets])
