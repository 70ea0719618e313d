"""Which frames make a sample: index arithmetic only, no file is opened here.

A *window* is the stretch of a video that one sample covers: `length` frames, `stride` frames apart, so it spans
`(length - 1) * stride + 1` frames of the video. All numbers are frames of the video.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np

ShortVideos = Literal["loop", "drop", "pad"]


class _Chooser(Protocol):
    """What `numpy.random.Generator` and the older `RandomState` have in common."""

    def choice(self, a: int, size: int, replace: bool) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class WindowTable:
    """Windows of many videos, ordered by video, then by start.

    Attributes:
      video: int64 [windows], number of the video each window belongs to.
      start: int64 [windows], first frame of each window.
    """

    video: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.video)


def window_span(length: int, stride: int) -> int:
    """Return how many frames of the video a window of `length` frames covers."""
    if length < 1 or stride < 1:
        raise ValueError(f"a window of {length} frames with stride {stride}: both must be at least 1")
    return (length - 1) * stride + 1


def count_windows(num_frames: int, span: int, step: int, short: ShortVideos = "drop") -> int:
    """Return how many windows of `span` frames, `step` frames apart, fit into `num_frames` frames.

    A video shorter than a window has none, or one where short videos are looped or padded.
    """
    if num_frames < span:
        return int(short != "drop" and num_frames > 0)
    return (num_frames - span) // step + 1


def sliding_windows(
    num_frames: np.ndarray, length: int, stride: int, step: int, short: ShortVideos = "drop"
) -> WindowTable:
    """Return every window of every video.

    The same arithmetic as the original's, whose short videos are always dropped.

    Args:
      num_frames: integers [videos], frames of each video.
      length: frames in a sample.
      stride: frames of the video between two frames of a sample ("frequency" in the original).
      step: frames between the starts of two windows.
      short: whether a video shorter than a window is left out, or looped or padded to fill one window.
    """
    span = window_span(length, stride)
    counts = np.array([count_windows(int(frames), span, step, short) for frames in num_frames], np.int64)
    video = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(video)) - np.repeat(np.cumsum(counts) - counts, counts)
    return WindowTable(video, rank * step)


def draw_windows(table: WindowTable, max_per_video: int, rng: _Chooser) -> WindowTable:
    """Return `table` with at most `max_per_video` windows of each video, chosen without repetition.

    Only videos that have too many draw from `rng`, in the order of the table, as in the original. Call it once an
    epoch. 0 keeps everything.
    """
    if not max_per_video:
        return table
    kept = []
    for windows in np.split(np.arange(len(table)), np.flatnonzero(np.diff(table.video)) + 1):
        if len(windows) > max_per_video:
            windows = windows[np.sort(rng.choice(len(windows), max_per_video, replace=False))]
        kept.append(windows)
    chosen = np.concatenate(kept)
    return WindowTable(table.video[chosen], table.start[chosen])


def nth_window_start(num_frames: int, span: int, step: int, number: int, rng: np.random.Generator) -> int:
    """Return the start of draw `number` (0, 1, ...) among the windows of one video, in a random order.

    Draws with the same state of `rng` differ from each other until every window was used once. A video shorter than a
    window starts at 0.
    """
    windows = count_windows(num_frames, span, step, short="loop")
    return step * int(rng.permutation(windows)[number % windows])


def center_start(num_frames: int, span: int) -> int:
    """Return the start of the window in the middle of a video, 0 if the video is shorter than a window."""
    return max(0, (num_frames - span) // 2)


def covering_starts(num_frames: int, span: int, stride: int, step: int) -> np.ndarray:
    """Return the starts, int64 [windows], of windows over a whole video: every `step` frames, the last with its end.

    The last one overlaps more than the others, and is left out where it would add less than `stride` frames. A video
    shorter than a window has one, which starts at 0.
    """
    last = max(0, num_frames - span)
    starts = np.arange(0, last + 1, step)
    return np.append(starts, last) if last - starts[-1] >= stride else starts


def uniform_starts(num_frames: int, span: int, count: int) -> np.ndarray:
    """Return the starts, int64 [count], of windows spread evenly from the first frame to the last; one is the centre.

    Starts repeat where the video has fewer than `count` windows.
    """
    if count == 1:
        return np.array([center_start(num_frames, span)])
    return np.round(np.linspace(0, max(0, num_frames - span), count)).astype(np.int64)


def pick_frames(
    start: int | np.ndarray, length: int, stride: int, num_frames: int, short: ShortVideos
) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of windows, int64 [..., length], and which of them are frames of their own, bool [..., length].

    Past its end a video begins again, or with `pad` its last frame stays, and is not a frame of its own.

    Args:
      start: integers [...], first frame of each window.
      length: frames in a window.
      stride: frames of the video between two frames of a window.
      num_frames: frames of the video.
      short: what is done where the video ends too early.
    """
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has no window")
    frames = np.asarray(start, np.int64)[..., None] + stride * np.arange(length)
    if short == "pad":
        return np.minimum(frames, num_frames - 1), frames < num_frames
    return frames % num_frames, np.ones(frames.shape, bool)


def random_starts(num_frames: int, span: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` starts of windows, int64 [count], each drawn alone; all 0 if the video is shorter than one."""
    return rng.integers(0, max(1, num_frames - span + 1), count)


def pair_starts(
    num_frames: int, span: int, min_distance: int, max_distance: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the starts of two windows of one video, int64 [2], all pairs that are allowed being equally likely.

    Args:
      num_frames: frames of the video.
      span: frames that a window covers.
      min_distance: frames between the starts at least; as many as there can be in a video that is too short for it.
      max_distance: frames between the starts at most; 0 = any, so that with both 0 the windows are independent.
      rng: what to draw from.
    """
    if min_distance < 0 or max_distance < 0 or 0 < max_distance < min_distance:
        raise ValueError(f"two windows {min_distance} to {max_distance} frames apart: needs 0 <= least <= most")
    starts = max(1, num_frames - span + 1)
    least = min(min_distance, starts - 1)
    distances = np.arange(least, min(max_distance or starts - 1, starts - 1) + 1)
    pairs = (starts - distances) * np.where(distances > 0, 2, 1)
    drawn = int(rng.integers(pairs.sum()))
    place = int(np.searchsorted(np.cumsum(pairs), drawn, side="right"))
    distance = int(distances[place])
    first, swapped = divmod(int(pairs[: place + 1].sum()) - 1 - drawn, 2 if distance else 1)
    return np.array([first + distance, first] if swapped else [first, first + distance])


def nested_starts(num_frames: int, outer_span: int, inner_span: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return the starts of a window and of a shorter one inside it, both drawn evenly, as BraVe draws its views.

    In a video shorter than the outer window the inner one stays inside the video.
    """
    if inner_span > outer_span:
        raise ValueError(f"a window of {inner_span} frames does not fit into one of {outer_span}")
    outer = int(random_starts(num_frames, outer_span, 1, rng)[0])
    return outer, outer + int(random_starts(min(outer_span, num_frames), inner_span, 1, rng)[0])


def grid_of_views(num_frames: int, span: int, temporal: int, spatial: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the views of a video for testing, the spatial ones of a window beside each other.

    Args:
      num_frames: frames of the video.
      span: frames that a window covers.
      temporal: windows, spread evenly, see `uniform_starts`.
      spatial: crops of each window along the longer side, from one end to the other; one is the centre.

    Returns:
      Starts, int64 [temporal * spatial], and where each crop lies along the longer side, 0 to 1.
    """
    places = np.linspace(0.0, 1.0, spatial) if spatial > 1 else np.array([0.5])
    return np.repeat(uniform_starts(num_frames, span, temporal), spatial), np.tile(places, temporal)


def crop_offsets(resized: tuple[int, int], size: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Return the top and left pixels of crops, int64 [V, 2].

    Args:
      resized: height and width in pixels of what is cropped.
      size: height and width in pixels of the crops.
      places: floats [V, 2], where a crop lies from the top and from the left, 0 to 1 of the room there is.
    """
    room = np.array(resized) - np.array(size)
    if (room < 0).any():
        raise ValueError(f"crops of {size[0]}x{size[1]} pixels do not fit into {resized[0]}x{resized[1]}")
    return np.floor(np.asarray(places) * room).astype(np.int64)
