"""A small `digits` data set and settings to read it."""

import dataclasses

import pytest

from configs import default
from hvt_jax import settings as settings_lib
from hvt_jax.data import digits_files


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """48 videos of 64x64 pixels: 32 for training, 16 for testing."""
    root = tmp_path_factory.mktemp("data") / "digits"
    digits_files.make_digits(root, digits_files.DigitsSpec(num_videos=48, size=64, codec="mpeg4", seed=0))
    return root


@pytest.fixture
def data_settings(digits_root):
    """Settings to read it: 4 frames of stride 2, without worker processes."""
    data = settings_lib.read_settings(default.get_config()).data
    return dataclasses.replace(
        data, root=str(digits_root), num_frames=4, frame_stride=2, height=32, width=32, num_workers=0
    )
