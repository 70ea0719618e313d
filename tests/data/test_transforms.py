"""Sizes of frames against the original's, and crop boxes by their definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvt_jax.data import transforms
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
