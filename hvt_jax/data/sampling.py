"""Which frames, and which part of them, make a sample: arithmetic only, no file is opened here.

A *window* is the stretch of a video that one sample covers: `length` frames, `stride` frames apart, so it spans
`(length - 1) * stride + 1` frames of the video. All numbers are frames of the video. A *view* is a window and the place
that is cut out of its frames. A *plan* says what views a method wants; `cut` turns it into frames and places for one
video, drawing from a generator where it draws at all. Views of one size make a *group*; a plan has one group, named "",
or several. `Window` is the plan of training and evaluation, `views` has others.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np

ShortVideos = Literal["loop", "drop", "pad"]


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


@dataclasses.dataclass(frozen=True)
class ViewShape:
    """What the views of a group have in common.

    Attributes:
      length: T, frames in a view.
      stride: frames of the video between two frames of a view.
      height: Y, pixel rows.
      width: X, pixel columns.
      zoom: lowest and highest factor by which frames are enlarged, over what just covers a view, before a view is cut
        out of them at a random place; (1, 1) = the centre.
    """

    length: int
    stride: int
    height: int
    width: int
    zoom: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        if not 1 <= self.zoom[0] <= self.zoom[1] <= 16:
            raise ValueError(f"a zoom of {self.zoom[0]:g} to {self.zoom[1]:g}: needs 1 <= lowest <= highest <= 16")
        window_span(self.length, self.stride)

    @property
    def span(self) -> int:
        """Frames of the video that a view covers."""
        return window_span(self.length, self.stride)


@dataclasses.dataclass(frozen=True)
class Views:
    """The V views of a group in one video.

    Attributes:
      shape: what they have in common.
      start: int64 [V], first frame.
      zoom: floats [V], see `ViewShape`.
      places: floats [V, 2], where they lie in the enlarged frame, from the top and from the left, 0 to 1.
    """

    shape: ViewShape
    start: np.ndarray
    zoom: np.ndarray
    places: np.ndarray


class Plan(Protocol):
    """What views a method wants."""

    @property
    def span(self) -> int:
        """Frames that a video needs to give all views without repeating itself."""

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """Return how many views of which shape each group has."""

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """Return the views of a video; the same for equal states of `rng`."""


@dataclasses.dataclass(frozen=True)
class Window:
    """One window, its centre: what training and evaluation see of a video. Batches have no axis of views for it.

    Attributes:
      shape: of the window.
      choice: the one in the middle, one that is drawn, or all, one after the other.
      step: frames between the starts of two windows that can be chosen.
      number: 0, 1, ...: which of the windows of a video it is; draws of different numbers differ while they can.
    """

    shape: ViewShape
    choice: Literal["middle", "drawn", "all"]
    step: int = 1
    number: int = 0

    @property
    def span(self) -> int:
        """See `Plan`."""
        return self.shape.span

    def nth(self, number: int) -> "Window":
        """Return another window of the same video."""
        return dataclasses.replace(self, number=number)

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"": (1, self.shape)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        start = self.number * self.step
        if self.choice == "middle":
            start = center_start(num_frames, self.span)
        elif self.choice == "drawn":
            start = nth_window_start(num_frames, self.span, self.step, self.number, rng)
        return {"": draw_places(self.shape, np.array([start]), rng)}


def draw_places(shape: ViewShape, start: np.ndarray, rng: np.random.Generator) -> Views:
    """Return views at `start` whose zoom and places are drawn; those of a shape without zoom are centred."""
    if shape.zoom == (1.0, 1.0):
        return Views(shape, start, np.ones(len(start)), np.full((len(start), 2), 0.5))
    return Views(shape, start, rng.uniform(*shape.zoom, len(start)), rng.uniform(size=(len(start), 2)))
