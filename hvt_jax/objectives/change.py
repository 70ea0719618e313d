"""Where a video changes, so that patches are asked for there.

Most places of most videos look the same in every frame: asked for one of them at some time, a prediction cannot choose
better than by chance, and a loss spread evenly over all places is mostly that. Asked in proportion to the change, a
frame keeps what moves.
"""

import jax
import jax.numpy as jnp
from einops import reduce

_FLOOR = 1e-6  # squared, in normalised pixels: a video that never changes is asked evenly


def patch_change(video: jax.Array, size: int, frame_valid: jax.Array | None = None, frame_step: int = 1) -> jax.Array:
    """Return the mean squared difference of every patch from its own mean over time, float32 [B, T, P], above 0.

    Args:
      video: float [B, T, Y, X, 3], normalised.
      size: pixels along a side of a patch.
      frame_valid: bool [B, T], frames that count in the mean and can have changed; None for all.
      frame_step: frames of the video in one frame of the hierarchy, whose change is their mean: then [B, T/step, P].
    """
    video = video.astype(jnp.float32)
    weight_BT = jnp.ones(video.shape[:2]) if frame_valid is None else frame_valid.astype(jnp.float32)
    weight_BT111 = weight_BT[..., None, None, None]
    total = jnp.where(weight_BT111 > 0, video, 0).sum(axis=1, keepdims=True)
    mean = total / jnp.maximum(weight_BT111.sum(axis=1, keepdims=True), 1)
    squares = jnp.where(weight_BT111 > 0, jnp.square(video - mean), 0)
    sizes = {"step": frame_step, "y": size, "x": size}
    return reduce(squares, "b (t step) (row y) (column x) c -> b t (row column)", "mean", **sizes) + _FLOOR
