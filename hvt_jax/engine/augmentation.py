"""Random changes of videos on the device, one draw per video and the same for all its frames.

Pure functions for use inside `jax.jit`. Colours and mirroring are dm-pix's. Crop, resize and blur are
linear along rows and along columns, so they are written as one small matrix per axis and video and
cost two matrix products together. dm-pix has no resized crop; its blur becomes a grouped convolution
under `vmap`, which is slow on CPU, and pads with black, which darkens the border.
"""

import math
from collections.abc import Sequence

import dm_pix as pix
import jax
import jax.numpy as jnp

from hvt_jax.settings import AugmentationSettings

# Each operation folds its place here into the key of the video, so that switching one off does not
# change what the others draw. Append only.
_OPERATIONS = ("crop", "flip", "blur", "jitter", "greyscale")
_SMALLEST_SIGMA = 1e-3  # pixels; a Gaussian this narrow is the identity, exactly


def augment(key: jax.Array, video: jax.Array, settings: AugmentationSettings, *, height: int, width: int) -> jax.Array:
    """Change each video of a batch at random: mirroring, resized crop, blur, colours, greyscale.

    The key of a video is `fold_in(key, its position in the global batch)`, and no operation looks at
    two videos: the result does not depend on the number of devices. What the settings switch off
    (probability 0, scale (1, 1), strength 0) is left out of the compiled program.

    Args:
      key: of this step.
      video: uint8 [B, T, Y', X', 3], 0-255.
      settings: probabilities and strengths. With `resized_crop_scale` (1, 1) the middle of the frame is
        taken, as in evaluation.
      height: Y, pixel rows of the result.
      width: X, pixel columns of the result.

    Returns:
      float32 [B, T, Y, X, 3] in 0-1, not normalised.

    Raises:
      ValueError: if the crop is off and the frames are smaller than the target.
    """
    if not _crops(settings):
        video = _cut_centre(video, height, width)

    def change_one(position, video_TYXC):
        video_key = jax.random.fold_in(key, position)
        keys = {name: jax.random.fold_in(video_key, number) for number, name in enumerate(_OPERATIONS)}
        return _change_video(keys, video_TYXC, settings, height, width)

    return jax.vmap(change_one)(jnp.arange(video.shape[0]), video)


def centre_crop(video: jax.Array, height: int, width: int) -> jax.Array:
    """Return the middle of every frame, for evaluation.

    Args:
      video: uint8 [..., Y', X', 3], 0-255.
      height: Y, at most Y'.
      width: X, at most X'.

    Returns:
      float32 [..., Y, X, 3] in 0-1. Of an odd rest the bottom and the right lose one pixel more.

    Raises:
      ValueError: if the frames are smaller than asked for.
    """
    return _cut_centre(video, height, width).astype(jnp.float32) / 255


def normalise(video: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Return (video - mean) / std per colour; every video goes through this, in evaluation too.

    Args:
      video: float [..., 3] in 0-1.
      mean: of the data set's pixel values in 0-1, per colour.
      std: likewise.
    """
    return (video - jnp.asarray(mean, video.dtype)) / jnp.asarray(std, video.dtype)


def _cut_centre(video: jax.Array, height: int, width: int) -> jax.Array:
    rows, columns = video.shape[-3:-1]
    if rows < height or columns < width:
        raise ValueError(
            f"frames of {rows}x{columns} pixels are smaller than the {height}x{width} asked for; "
            "decode larger frames (data.resize_margin >= 1) or lower data.height and data.width"
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    return video[..., top : top + height, left : left + width, :]


def _crops(settings: AugmentationSettings) -> bool:
    return tuple(settings.resized_crop_scale) != (1, 1)


def _change_video(keys: dict, video, settings: AugmentationSettings, height: int, width: int) -> jax.Array:
    """Apply what is switched on to one uint8 video [T, Y', X', 3]."""
    if settings.flip_probability > 0:
        video = pix.random_flip_left_right(keys["flip"], video, probability=settings.flip_probability)
    video_TYXC = video.astype(jnp.float32) / 255
    blurs = settings.blur_probability > 0 and settings.blur_sigma[1] > 0
    if _crops(settings) or blurs:
        video_TYXC = _resample(keys, video_TYXC, settings, blurs, height, width)
    if settings.color_jitter_probability > 0:
        key_whether, key_how = jax.random.split(keys["jitter"])
        whether = jax.random.bernoulli(key_whether, settings.color_jitter_probability)
        video_TYXC = jnp.where(whether, _jitter_colors(key_how, video_TYXC, settings), video_TYXC)
    if settings.greyscale_probability > 0:
        whether = jax.random.bernoulli(keys["greyscale"], settings.greyscale_probability)
        video_TYXC = jnp.where(whether, pix.rgb_to_grayscale(video_TYXC, keep_dims=True), video_TYXC)
    return jnp.clip(video_TYXC, 0, 1)


def _resample(
    keys: dict, video_TYXC: jax.Array, settings: AugmentationSettings, blurs: bool, height: int, width: int
) -> jax.Array:
    """Crop, resize and blur a video by one matrix for its rows and one for its columns."""
    num_frames, rows, columns, colors = video_TYXC.shape
    row_weights, column_weights = jnp.eye(rows), jnp.eye(columns)
    if _crops(settings):
        top, left, box_height, box_width = _draw_box(keys["crop"], settings, rows, columns)
        row_weights = _resize_weights(top, box_height, rows, height)
        column_weights = _resize_weights(left, box_width, columns, width)
    if blurs:
        key_whether, key_how = jax.random.split(keys["blur"])
        sigma = jax.random.uniform(key_how, minval=settings.blur_sigma[0], maxval=settings.blur_sigma[1])
        sigma = jnp.where(jax.random.bernoulli(key_whether, settings.blur_probability), sigma, 0.0)
        row_weights = _blur_weights(sigma, height) @ row_weights
        column_weights = _blur_weights(sigma, width) @ column_weights
    # TF32 on a GPU: 11 bits are enough for pixels of 8.
    video = jnp.einsum("yk,tkr->tyr", row_weights, video_TYXC.reshape(num_frames, rows, -1), precision="high")
    video = video.reshape(num_frames, height, columns, colors)
    return jnp.einsum("xk,tykc->tyxc", column_weights, video, precision="high")


def _draw_box(key: jax.Array, settings: AugmentationSettings, rows: int, columns: int):
    """Draw (top, left, height, width) in pixels, as torchvision's RandomResizedCrop without its retries.

    The ratio is narrowed to what fits into the frame, so the share of the area is always the one drawn.
    """
    key_area, key_ratio, key_top, key_left = jax.random.split(key, 4)
    low, high = settings.resized_crop_scale
    area = rows * columns * jax.random.uniform(key_area, minval=low, maxval=high)
    low, high = (math.log(ratio) for ratio in settings.resized_crop_ratio)
    ratio = jnp.exp(jax.random.uniform(key_ratio, minval=low, maxval=high))
    ratio = jnp.clip(ratio, area / rows**2, columns**2 / area)
    box_height, box_width = jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)
    top = jax.random.uniform(key_top) * (rows - box_height)
    left = jax.random.uniform(key_left) * (columns - box_width)
    return top, left, box_height, box_width


def _resize_weights(start: jax.Array, size: jax.Array, num_inputs: int, num_outputs: int) -> jax.Array:
    """Return [outputs, inputs]: bilinear, antialiased weights of the pixels of start..start+size."""
    step = size / num_outputs
    # Pixel i covers i..i+1, its centre lies at i + 1/2.
    points = jnp.clip(start + (jnp.arange(num_outputs) + 0.5) * step - 0.5, 0, num_inputs - 1)
    distances = jnp.abs(points[:, None] - jnp.arange(num_inputs))
    weights = jnp.maximum(0.0, 1 - distances / jnp.maximum(step, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _blur_weights(sigma: jax.Array, size: int) -> jax.Array:
    """Return [size, size]: a Gaussian of `sigma` pixels around each pixel, over the pixels that exist."""
    distances = jnp.arange(size)[:, None] - jnp.arange(size)
    return jax.nn.softmax(-(distances**2) / (2 * jnp.maximum(sigma, _SMALLEST_SIGMA) ** 2), axis=1)


def _jitter_colors(key: jax.Array, video_TYXC: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """Change brightness, contrast, saturation and hue, in this order, each if its strength is above 0.

    Brightness is a share of the whole range that is added, as in BYOL and BraVe, not a factor.
    """
    keys = jax.random.split(key, 4)
    # One tall picture of all frames: contrast then turns around the mean of the video, and a pixel
    # value becomes the same colour in every frame.
    picture = video_TYXC.reshape(-1, *video_TYXC.shape[2:])
    if settings.brightness > 0:
        picture = pix.random_brightness(keys[0], picture, settings.brightness)
    if settings.contrast > 0:
        picture = pix.random_contrast(keys[1], picture, max(0.0, 1 - settings.contrast), 1 + settings.contrast)
    picture = jnp.clip(picture, 0, 1)
    if settings.saturation > 0 or settings.hue > 0:
        # pix.random_saturation and pix.random_hue would each convert to HSV and back.
        hue, saturation, value = jnp.moveaxis(pix.rgb_to_hsv(picture), -1, 0)
        hue += jax.random.uniform(keys[3], minval=-settings.hue, maxval=settings.hue)
        low, high = max(0.0, 1 - settings.saturation), 1 + settings.saturation
        saturation = jnp.clip(saturation * jax.random.uniform(keys[2], minval=low, maxval=high), 0, 1)
        picture = pix.hsv_to_rgb(jnp.stack([hue, saturation, value], axis=-1))
    return picture.reshape(video_TYXC.shape)
