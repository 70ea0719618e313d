"""Which frames make a sample: index arithmetic only, no file is opened here.

A *window* is the stretch of a video that one sample covers: `length` frames, `stride` frames apart, so it spans
`(length - 1) * stride + 1` frames of the video. All numbers are frames of the video.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np

ShortVideos = Literal["loop", "drop"]


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

    A video shorter than a window has none, or one where short videos are looped.
    """
    if num_frames < span:
        return int(short == "loop" and num_frames > 0)
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
      short: whether a video shorter than a window is left out, or repeated to fill one window.
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


def uniform_starts(num_frames: int, span: int, count: int) -> np.ndarray:
    """Return the starts, int64 [count], of windows spread evenly from the first frame to the last; one is the centre.

    Starts repeat where the video has fewer than `count` windows.
    """
    if count == 1:
        return np.array([center_start(num_frames, span)])
    return np.round(np.linspace(0, max(0, num_frames - span), count)).astype(np.int64)


def frame_indices(start: int, length: int, stride: int, num_frames: int) -> np.ndarray:
    """Return the frames, int64 [length], of a window; past its end the video begins again."""
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has no window")
    return (start + stride * np.arange(length)) % num_frames
