"""Sizes of frames against the original's, and crop boxes by their definition."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvt_jax.data import images, transforms
from tests import golden_files


@golden_files.each_misc_item("set_width_height")
def test_storage_size_equals_the_original(key, golden):
    arguments, result = golden.values()
    assert list(transforms.storage_size(*arguments)) == result


def test_cover_box_by_hand():
    assert transforms.cover_box(240, 320, 64, 64) == transforms.CoverBox(64, 85, 0, 10)
    assert transforms.cover_box(320, 240, 64, 64) == transforms.CoverBox(85, 64, 10, 0)
    assert transforms.cover_box(64, 64, 64, 64) == transforms.CoverBox(64, 64, 0, 0)


@given(*[st.integers(1, 2000)] * 4)
def test_cover_box_covers_tightly_and_is_centred(frame_height, frame_width, height, width):
    box = transforms.cover_box(frame_height, frame_width, height, width)
    spare_rows, spare_columns = box.resized_height - height, box.resized_width - width
    assert spare_rows >= 0 and spare_columns >= 0 and min(spare_rows, spare_columns) == 0
    assert (box.top, box.left) == (spare_rows // 2, spare_columns // 2)
    scale = max(height / frame_height, width / frame_width)
    assert abs(box.resized_height - frame_height * scale) <= 1 and abs(box.resized_width - frame_width * scale) <= 1


def test_nothing_cannot_be_covered():
    with pytest.raises(ValueError, match="0x320"):
        transforms.cover_box(0, 320, 64, 64)


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_wide_frame_is_cut_or_squeezed(squeeze):
    """Red on its left edge, blue on its right one: both are cut away, or both are there."""
    pixels = np.full((64, 128, 3), 90, np.uint8)
    pixels[:, :24], pixels[:, -24:] = (255, 0, 0), (0, 0, 255)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    ways = transforms.fit_frame(frame, 32, 32, (0, False), True, squeeze), images.fit_pixels(pixels, 32, 32, squeeze)
    for fitted in ways:
        edges = fitted[16, [0, -1]].astype(int)
        wanted = [[255, 0, 0], [0, 0, 255]] if squeeze else [[90, 90, 90]] * 2
        assert fitted.shape == (32, 32, 3) and np.abs(edges - wanted).max() < 8
    assert (transforms.cover_box(64, 128, 32, 32, squeeze).resized_width == 32) == squeeze
