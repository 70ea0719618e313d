"""Sizes and boxes of frames, and a decoded frame made to fit: on the host, before anything reaches the device."""

import dataclasses
import math
import struct
import threading

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from hvt_jax.data import profiling
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_PIXELS

Orientation = tuple[int, bool]  # quarter turns counter-clockwise, 0 to 3; whether left and right change places before
_EXACT = 0x2 | 0x40000 | 0x2000  # bilinear, accurate rounding, full chroma; PyAV 17 has no names for the last two


class _Kept(threading.local):
    """Converters that a thread keeps: to set one up takes as long as to convert a frame."""

    def __init__(self):
        self.planes, self.packed = VideoReformatter(), VideoReformatter()


_kept = _Kept()


@dataclasses.dataclass(frozen=True)
class CoverBox:
    """Resize a frame to `resized_height` x `resized_width`, then cut the target at (`top`, `left`); all in pixels."""

    resized_height: int
    resized_width: int
    top: int
    left: int


def cover_box(frame_height: int, frame_width: int, height: int, width: int, squeeze: bool = False) -> CoverBox:
    """Return the smallest resize that keeps the shape of a frame and covers the target, and the central crop of it.

    With `squeeze` the frame takes the shape of the target, and nothing is cut.
    """
    if min(frame_height, frame_width, height, width) < 1:
        raise ValueError(f"cannot fit a frame of {frame_height}x{frame_width} into {height}x{width} pixels")
    if squeeze:
        return CoverBox(height, width, 0, 0)
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


@profiling.timed("resize")
def fit_frame(
    frame: av.VideoFrame,
    height: int,
    width: int,
    orientation: Orientation = (0, False),
    is_exact: bool = False,
    squeeze: bool = False,
) -> np.ndarray:
    """Return one frame upright, covering the target and cut in its centre, uint8 [height, width, 3].

    See `turn_upright` for `orientation`, `to_rgb` for `is_exact`, `cover_box` for `squeeze`.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise VideoError(Problem.TOO_LARGE, f"{frame.width}x{frame.height} pixels")
    turns, mirrored = orientation
    stored_height, stored_width = (width, height) if turns % 2 else (height, width)
    box = cover_box(frame.height, frame.width, stored_height, stored_width, squeeze)
    pixels = to_rgb(frame, box.resized_height, box.resized_width, is_exact)
    pixels = pixels[box.top : box.top + stored_height, box.left : box.left + stored_width]
    return turn_upright(pixels, turns, mirrored)


def to_rgb(frame: av.VideoFrame, height: int, width: int, is_exact: bool = False) -> np.ndarray:
    """Return a frame of the size given, uint8 [height, width, 3].

    Frames that keep their size are converted fast, which makes them about one level darker, unless `is_exact`.
    """
    if (height, width) == (frame.height, frame.width) and not is_exact:
        return _kept.packed.reformat(frame, format="rgb24", threads=1).to_ndarray()
    # By way of planes, which is exact and takes half the time of swscale's own way from one to the other.
    planes = _kept.planes.reformat(frame, width, height, "gbrp", interpolation=_EXACT, threads=1)
    return _kept.packed.reformat(planes, format="rgb24", threads=1).to_ndarray()


class Orientations:
    """What makes the frames of one video upright, see `turn_upright`.

    Few are looked at closely: side data that was asked for and its frame hold each other (PyAV 18.1), so that the
    pixels stay in memory until garbage is collected.
    """

    def __init__(self):
        """Know of none."""
        self._known: dict[float, Orientation] = {}

    def of(self, frame: av.VideoFrame) -> Orientation:
        """Return the orientation of a frame."""
        if frame.rotation not in self._known:
            self._known[frame.rotation] = read_orientation(frame)
        return self._known[frame.rotation]


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """Return what makes a frame upright; of a display matrix that is neither turn nor mirror, the nearest turn."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 knows all kinds of side data or reads none; mirrors are lost then, turns are not
        return round(frame.rotation / 90) % 4, False
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))  # x' = a x + c y, y' = b x + d y, rows downwards
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return round(-2 * math.atan2(b, a) / math.pi) % 4, mirrored


def turn_upright(pixels: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Return an image, [Y, X, ...], with left and right exchanged if `mirrored`, then turned counter-clockwise."""
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.rot90(pixels, turns) if turns else pixels


def upright_size(frame: av.VideoFrame, orientation: Orientation = (0, False)) -> tuple[int, int]:
    """Return height and width of a frame, in pixels, once it is upright."""
    return (frame.width, frame.height) if orientation[0] % 2 else (frame.height, frame.width)
