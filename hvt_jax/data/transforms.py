"""Sizes and boxes of frames, and a decoded frame made to fit: on the host, before anything reaches the device."""

import dataclasses

import av
import numpy as np

from hvt_jax.data import stages
from hvt_jax.data.containers import MAX_PIXELS
from hvt_jax.data.problems import Problem, VideoError


@dataclasses.dataclass(frozen=True)
class CoverBox:
    """Resize a frame to `resized_height` x `resized_width`, then cut the target at (`top`, `left`); all in pixels."""

    resized_height: int
    resized_width: int
    top: int
    left: int


def cover_box(frame_height: int, frame_width: int, height: int, width: int) -> CoverBox:
    """Return the smallest resize that keeps the shape of a frame and covers the target, and the central crop of it."""
    if min(frame_height, frame_width, height, width) < 1:
        raise ValueError(f"cannot fit a frame of {frame_height}x{frame_width} into {height}x{width} pixels")
    scale = max(height / frame_height, width / frame_width)
    resized_height = max(height, round(frame_height * scale))
    resized_width = max(width, round(frame_width * scale))
    return CoverBox(resized_height, resized_width, (resized_height - height) // 2, (resized_width - width) // 2)


def storage_size(height: int, width: int, shortest_side: int, frame_height: int, frame_width: int) -> tuple[int, int]:
    """Return the (height, width) in pixels that frames of one size are stored at, rounded down.

    Given both sides, those; given one, the other follows the shape of the frame; given none, the shorter side becomes
    `shortest_side`; given nothing, the frame's own size. "Not given" is any number below 1. As the original's
    `set_width_height`.
    """
    if height > 0 and width > 0:
        return height, width
    if height > 0:
        return height, frame_width * height // frame_height
    if width > 0:
        return frame_height * width // frame_width, width
    if shortest_side < 1:
        return frame_height, frame_width
    if frame_height < frame_width:
        return shortest_side, frame_width * shortest_side // frame_height
    return frame_height * shortest_side // frame_width, shortest_side


@stages.timed("resize")
def fit_frame(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """Return one frame upright, covering the target and cut in its centre, uint8 [height, width, 3]."""
    if frame.width * frame.height > MAX_PIXELS:
        raise VideoError(Problem.TOO_LARGE, f"{frame.width}x{frame.height} pixels")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    stored_height, stored_width = (width, height) if turns % 2 else (height, width)
    box = cover_box(frame.height, frame.width, stored_height, stored_width)
    resized = frame.reformat(box.resized_width, box.resized_height, "rgb24", interpolation="BILINEAR", threads=1)
    pixels = resized.to_ndarray()[box.top : box.top + stored_height, box.left : box.left + stored_width]
    return np.rot90(pixels, turns) if turns else pixels
