"""Augmentation: one draw per video, pixels where they belong, keys by position, colours within bounds."""

import dataclasses
import functools

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hvt_jax.engine import augmentation
from hvt_jax.settings import AugmentationSettings

OFF = AugmentationSettings(
    resized_crop_scale=(1.0, 1.0),
    resized_crop_ratio=(0.75, 1.3333),
    flip_probability=0.0,
    color_jitter_probability=0.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    greyscale_probability=0.0,
    blur_probability=0.0,
    blur_sigma=(0.5, 2.0),
)
ON = dataclasses.replace(
    OFF,
    resized_crop_scale=(0.3, 0.9),
    flip_probability=0.5,
    color_jitter_probability=0.8,
    greyscale_probability=0.3,
    blur_probability=0.5,
)
KEY = jax.random.key(3)
HEIGHT, WIDTH = 12, 20


def with_settings(**changes):
    return dataclasses.replace(OFF, **changes)


def videos(batch=8, frames=3, rows=16, columns=24, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (batch, frames, rows, columns, 3)), jnp.uint8)


def ramps(rows, columns):
    """One frame whose red is 2 x row and whose green is 2 x column: every pixel tells where it was."""
    frame = np.zeros((1, 1, rows, columns, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 2 * np.arange(rows)[:, None], 2 * np.arange(columns)
    return jnp.asarray(frame)


def unit(video):
    return np.asarray(video, np.float32) / 255


def run(video, settings, height, width):
    return jax.jit(lambda key, video: augmentation.augment(key, video, settings, height=height, width=width))(
        KEY, video
    )


@pytest.fixture(scope="module")
def augment_all():
    return jax.jit(lambda key, video: augmentation.augment(key, video, ON, height=HEIGHT, width=WIDTH))


def test_all_frames_of_a_video_get_the_same_draw(augment_all):
    still = jnp.repeat(videos(frames=1), 3, axis=1)
    out = augment_all(KEY, still)
    assert out.shape == (8, 3, HEIGHT, WIDTH, 3) and out.dtype == jnp.float32
    np.testing.assert_array_equal(out, jnp.repeat(out[:, :1], 3, axis=1))


def test_a_pixel_value_becomes_the_same_colour_in_every_frame():
    dark_then_bright = jnp.concatenate([videos(8, 1) // 4, videos(8, 1, seed=1) // 2 + 100], axis=1)
    dark_then_bright = dark_then_bright.at[:, :, 0, 0].set(jnp.array([40, 90, 120], jnp.uint8))
    settings = with_settings(color_jitter_probability=1.0)
    out = run(dark_then_bright, settings, 16, 24)
    np.testing.assert_allclose(out[:, 0, 0, 0], out[:, 1, 0, 0], atol=1e-6)
    assert float(jnp.abs(out[:, 0, 0, 0] - jnp.array([40, 90, 120]) / 255).max()) > 0.05


def test_videos_of_a_batch_and_steps_get_different_draws(augment_all):
    same = jnp.repeat(videos(batch=1), 8, axis=0)
    out = np.asarray(augment_all(KEY, same)).reshape(8, -1)
    distances = np.abs(out[:, None] - out[None]).max(-1) + np.eye(8)
    assert distances.min() > 1e-3
    assert np.abs(out - np.asarray(augment_all(jax.random.key(4), same)).reshape(8, -1)).max(-1).min() > 1e-3


def test_the_same_key_gives_the_same_result(augment_all):
    np.testing.assert_array_equal(augment_all(jax.random.key(3), videos()), augment_all(jax.random.key(3), videos()))


def test_the_draw_belongs_to_the_position_in_the_batch(augment_all):
    """A video at position 2 is changed alike whatever stands beside it and however large the batch is."""
    video = videos()
    other = videos(seed=9).at[2].set(video[2])
    np.testing.assert_allclose(augment_all(KEY, video)[2], augment_all(KEY, other)[2], atol=1e-6)
    np.testing.assert_allclose(augment_all(KEY, video)[:3], augment_all(KEY, video[:3]), atol=1e-6)


def test_four_devices_give_what_one_gives_without_talking(augment_all):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_batch = NamedSharding(mesh, PartitionSpec("data"))
    video = videos()

    def call(video):
        return augmentation.augment(KEY, video, ON, height=HEIGHT, width=WIDTH)

    compiled = jax.jit(call, in_shardings=by_batch, out_shardings=by_batch).lower(video).compile()
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "permute") if name in compiled.as_text()]
    np.testing.assert_allclose(compiled(jax.device_put(video, by_batch)), augment_all(KEY, video), atol=1e-5)


def test_everything_off_is_the_centre_crop():
    video = videos()
    out = run(video, OFF, HEIGHT, WIDTH)
    np.testing.assert_array_equal(out, augmentation.centre_crop(video, HEIGHT, WIDTH))
    np.testing.assert_allclose(out, unit(video)[:, :, 2:14, 2:22], atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"blur_probability": 1e-9},
        {"color_jitter_probability": 1e-9},
        {"greyscale_probability": 1e-9},
        {"flip_probability": 1e-9},
        {"color_jitter_probability": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        {"blur_probability": 1.0, "blur_sigma": (0.0, 0.0)},
    ],
)
def test_an_operation_that_is_not_drawn_or_has_no_strength_changes_nothing(changes):
    video = videos()
    out = run(video, with_settings(**changes), 16, 24)
    np.testing.assert_allclose(out, unit(video), atol=2e-7)


def test_operations_off_are_not_in_the_program():
    def primitives(settings):
        call = jax.make_jaxpr(lambda video: augmentation.augment(KEY, video, settings, height=16, width=24))
        return str(call(videos()))

    assert "random_bits" not in primitives(OFF) and "dot_general" not in primitives(OFF)
    assert "random_bits" in primitives(ON) and "dot_general" in primitives(ON)


def test_flip_only_mirrors_and_only_some():
    video = videos(batch=32, frames=2, rows=4, columns=6)
    out = run(video, with_settings(flip_probability=0.5), 4, 6)
    flipped = [np.allclose(after, before[:, :, ::-1]) for after, before in zip(out, unit(video), strict=True)]
    kept = [np.allclose(after, before) for after, before in zip(out, unit(video), strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 6 <= sum(flipped) <= 26


@functools.partial(jax.jit, static_argnums=(0, 1))
def resized(rows, columns, frame):
    """`frame` [Y, X, C] cut to (start, size, how many of a result) of rows and of columns."""
    weights = (
        augmentation._resize_weights(start, size, length, count)
        for (start, size, count), length in zip((rows, columns), frame.shape, strict=False)
    )
    return jnp.einsum("yk,xl,klc->yxc", *weights, frame)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (12, 20), (20, 10), (40, 60)])
def test_resized_box_reads_the_pixels_it_covers(height, width):
    """Pixel i of the result is centred at start + (i + 1/2) size / count of the frame, in both directions.

    The antialiasing of a shrunk box shifts values by a few hundredths of a pixel.
    """
    top, left, box_height, box_width = 3.25, 5.5, 10.0, 14.5
    frame = np.asarray(ramps(16, 24)[0, 0], np.float32)
    out = np.asarray(resized((top, box_height, height), (left, box_width, width), frame))
    expected_rows = 2 * (top + (np.arange(height) + 0.5) * box_height / height - 0.5)
    expected_columns = 2 * (left + (np.arange(width) + 0.5) * box_width / width - 0.5)
    np.testing.assert_allclose(out[:, 0, 0], expected_rows, atol=0.05)
    np.testing.assert_allclose(out[0, :, 1], expected_columns, atol=0.05)


@pytest.mark.parametrize("shape", [(16, 24), (8, 10), (32, 30)])
def test_resizing_the_whole_frame_is_jax_image_resize(shape):
    frame = np.asarray(videos(1, 1)[0, 0], np.float32)
    out = resized((0.0, 16.0, shape[0]), (0.0, 24.0, shape[1]), frame)
    np.testing.assert_allclose(out, jax.image.resize(frame, (*shape, 3), "linear"), atol=1e-3)


def test_boxes_keep_the_drawn_share_and_stay_inside_the_frame():
    """On a wide frame too, where a ratio of 3/4 does not fit at a share of 0.9."""
    settings = with_settings(resized_crop_scale=(0.4, 0.9))
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(augmentation._draw_box(key, settings, 20, 60))))
    top, left, height, width = np.asarray(draw(jax.random.split(KEY, 500))).T
    share = height * width / (20 * 60)
    assert share.min() > 0.399 and share.max() < 0.901 and share.std() > 0.1
    assert min(top.min(), left.min()) >= -1e-4
    assert (top + height).max() <= 20.001 and (left + width).max() <= 60.001
    fits = height < 19.99
    assert fits.any() and (width / height)[fits].max() < 1.334
    assert np.ptp(left) > 10


def test_crop_in_a_batch_is_an_undistorted_ramp_of_the_frame():
    """Rows and columns of the result stay straight and ascend within the frame, at the drawn share."""
    settings = with_settings(resized_crop_scale=(0.5, 0.5), resized_crop_ratio=(1.0, 1.0))
    out = run(jnp.repeat(ramps(32, 48), 6, 0), settings, HEIGHT, WIDTH)
    rows, columns = np.asarray(out[:, 0, :, 0, 0]) * 255 / 2, np.asarray(out[:, 0, 0, :, 1]) * 255 / 2
    np.testing.assert_allclose(out[..., 0], np.broadcast_to(out[..., :1, 0], out.shape[:-1]), atol=1e-6)
    side = np.sqrt(0.5 * 32 * 48)  # 27.7 x 27.7 pixels
    np.testing.assert_allclose(np.diff(rows[:, 2:-2]), side / HEIGHT, atol=0.1)
    np.testing.assert_allclose(np.diff(columns[:, 2:-2]), side / WIDTH, atol=0.1)
    assert rows.min() >= 0 and rows.max() <= 31 and columns.max() <= 47 and np.ptp(columns[:, 0]) > 3


def test_blur_is_the_gaussian_of_dm_pix_away_from_the_border():
    video = videos(2, 2)
    settings = with_settings(blur_probability=1.0, blur_sigma=(1.2, 1.2))
    out = run(video, settings, 16, 24)
    expected = jax.jit(jax.vmap(lambda frames: pix.gaussian_blur(frames, 1.2, 13)))(unit(video))
    np.testing.assert_allclose(out[:, :, 6:-6, 6:-6], expected[:, :, 6:-6, 6:-6], atol=1e-5)


def test_blur_keeps_a_flat_picture_flat_up_to_the_border():
    flat = jnp.full((2, 1, 16, 24, 3), 200, jnp.uint8)
    settings = with_settings(blur_probability=1.0)
    out = run(flat, settings, 16, 24)
    np.testing.assert_allclose(out, 200 / 255, atol=1e-6)


def test_greyscale_has_three_equal_channels_of_luma():
    video = videos()
    settings = with_settings(greyscale_probability=1.0)
    out = run(video, settings, 16, 24)
    luma = np.asarray(video, np.float32) @ np.float32([0.2989, 0.587, 0.114]) / 255
    np.testing.assert_allclose(out, np.repeat(luma[..., None], 3, -1), atol=1e-6)


@pytest.mark.parametrize(
    ("strength", "low", "high"), [("brightness", -0.4, 0.4), ("contrast", 0.6, 1.4), ("saturation", 0.6, 1.4)]
)
def test_a_single_colour_change_stays_within_its_strength(strength, low, high):
    """On values far from 0 and 1 each change can be read back from the pixels."""
    video = jnp.broadcast_to(jnp.asarray([140, 120, 100], jnp.uint8), (40, 1, 4, 4, 3))
    video = video.at[:, :, 2:].add(jnp.uint8(10))
    switched = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0) | {strength: 0.4}
    settings = with_settings(color_jitter_probability=1.0, **switched)
    before = unit(video)
    after = np.asarray(run(video, settings, 4, 4))
    size = {
        "brightness": (after - before).mean((1, 2, 3, 4)),
        "contrast": np.ptp(after[..., 0], axis=(1, 2, 3)) / np.ptp(before[..., 0], axis=(1, 2, 3)),
        "saturation": np.ptp(after[:, 0, 0, 0], axis=-1) / np.ptp(before[:, 0, 0, 0], axis=-1),
    }[strength]
    assert size.min() >= low - 1e-3 and size.max() <= high + 1e-3
    assert np.ptp(size) > 0.5 * (high - low)


def test_hue_turns_the_colour_and_keeps_its_largest_and_smallest_channel():
    video = jnp.broadcast_to(jnp.asarray([200, 100, 50], jnp.uint8), (20, 1, 2, 2, 3))
    settings = with_settings(color_jitter_probability=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5)
    out = np.asarray(run(video, settings, 2, 2))[:, 0, 0, 0]
    np.testing.assert_allclose(out.max(-1), 200 / 255, atol=1e-5)
    np.testing.assert_allclose(out.min(-1), 50 / 255, atol=1e-5)
    assert len(set(out.argmax(-1))) == 3


def test_values_stay_between_0_and_1_and_finite():
    strong = dataclasses.replace(
        ON, brightness=1.0, contrast=2.0, saturation=3.0, hue=0.5, color_jitter_probability=1.0
    )
    video = jnp.concatenate([videos(4), jnp.zeros_like(videos(2)), jnp.full_like(videos(2), 255)])
    out = np.asarray(run(video, strong, HEIGHT, WIDTH))
    assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
    assert out.min() == 0 and out.max() == 1  # the clipping was needed


def test_centre_crop_takes_the_middle_and_refuses_small_frames():
    out = augmentation.centre_crop(ramps(7, 10)[0], 4, 4)
    assert out.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(out[0, :, 0, 0] * 255, [2, 4, 6, 8], atol=1e-5)
    np.testing.assert_allclose(out[0, 0, :, 1] * 255, [6, 8, 10, 12], atol=1e-5)
    with pytest.raises(ValueError, match="7x10 pixels are smaller than the 8x8"):
        augmentation.centre_crop(ramps(7, 10), 8, 8)


def test_normalise_by_hand():
    video = jnp.full((1, 1, 1, 1, 3), 0.5)
    out = augmentation.normalise(video, (0.5, 0.4, 0.3), (0.1, 0.2, 0.4))
    np.testing.assert_allclose(out.ravel(), [0.0, 0.5, 0.5], atol=1e-6)
