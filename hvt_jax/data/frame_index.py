"""Where the frames of a video are in time, and in which order they are read."""

import collections
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterable

import av
import numpy as np

from hvt_jax.data.problems import Problem, VideoError

Keep = Callable[[int, av.VideoFrame], None]  # takes the place of a frame among those wanted, and the frame

_PAUSE = 3  # usual gaps between two frames; in a longer one the first of them goes on being shown
_SEEK_GAIN = 4  # frames that must be saved before a seek is cheaper than decoding on


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """Where the frames of a stream are, in units of its time base.

    Attributes:
      times: int64 [frames], when each is shown, rising.
      key_times: int64 [keys], presentation times of the frames at which decoding may begin, rising.
      key_seeks: int64 [keys], the time to seek to for each of them.
      timed: whether decoded frames carry these times, so that they can be recognised after a seek.
      skipped: packets at the start of which nothing can be decoded.
      repeats: whether a frame that the decoder does not give shows the picture before it.
      has_times: whether `times` are times and not only numbers.
      longest_still: a frame is not shown for longer: times further apart are those of two recordings.
    """

    times: np.ndarray
    key_times: np.ndarray
    key_seeks: np.ndarray
    timed: bool
    skipped: int = 0
    repeats: bool = False
    has_times: bool = True
    longest_still: float = math.inf

    @functools.cached_property
    def _usual_gap(self) -> int:
        """Time between two frames that three of four do not exceed."""
        gaps = np.sort(np.diff(self.times))
        return int(gaps[3 * len(gaps) // 4]) if len(gaps) else 0

    @functools.cached_property
    def shown(self) -> np.ndarray:
        """When each frame is shown, from 0 for the first, int64 [frames]; recordings that were joined go on."""
        gaps = np.diff(self.times, prepend=self.times[:1])
        return np.cumsum(np.where(gaps > self.longest_still, self._usual_gap, gaps))

    @functools.cached_property
    def half_spacing(self) -> float:
        """How far from the time wanted a decoded frame may be and still count as that frame."""
        return float(np.median(np.diff(self.times))) / 2 if self.timed and len(self.times) > 1 else 0.0

    def frame_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Return which frames are shown at `indices`, counted on an even time grid from the first frame to the last.

        At a constant frame rate frame i is index i; at a variable one the nearest frame in time is taken, so that a
        sample moves at the speed of the video; in a pause the frame before it.
        """
        shown, count = self.shown, len(self.times)
        if count < 3:
            return indices
        grid = indices * (shown[-1] / (count - 1))
        after = np.clip(np.searchsorted(shown, grid), 1, count - 1)
        gaps = shown[after] - shown[after - 1]
        early = np.where(gaps > _PAUSE * self._usual_gap, self._usual_gap, gaps) / 2
        return after - (shown[after] - grid > early)

    def split_runs(self, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Cut `wanted`, rising frame numbers, into (first, last) ranges where a later keyframe saves decoding."""
        keys = np.searchsorted(self.times, self.key_times)
        key_of = keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)] if len(keys) else wanted * 0
        cuts = 1 + np.flatnonzero(key_of[1:] - wanted[:-1] >= _SEEK_GAIN)
        edges = [0, *cuts.tolist(), len(wanted)]
        return list(zip(edges[:-1], edges[1:], strict=True))


class IndexCache:
    """The most recently used lists; threads may share it."""

    def __init__(self, most_frames: int):
        """Keep lists of `most_frames` frames together."""
        self._most_frames, self.num_frames = most_frames, 0
        self._lists: collections.OrderedDict[tuple, FrameIndex] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> FrameIndex | None:
        """Return what was put there under `key`, None if it is not there any more."""
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key)

    def put(self, key: tuple, index: FrameIndex) -> None:
        """Keep `index`; what was not used for longest goes where there are too many."""
        with self._lock:
            if key not in self._lists:
                self._lists[key] = index
                self.num_frames += len(index.times)
            while self.num_frames > self._most_frames:
                self.num_frames -= len(self._lists.popitem(last=False)[1].times)


def plan_reading(
    numbers: np.ndarray, height: int, width: int, out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return what to read, rising; where each of `numbers` is among it, None if in place; and room to decode into."""
    if (numbers[1:] > numbers[:-1]).all():  # nearly always; then they go to where they belong without a copy
        return numbers, None, np.empty((len(numbers), height, width, 3), np.uint8) if out is None else out
    wanted, positions = np.unique(numbers, return_inverse=True)
    return wanted, positions, np.empty((len(wanted), height, width, 3), np.uint8)


def finish_reading(frames: np.ndarray, positions: np.ndarray | None, out: np.ndarray | None) -> np.ndarray:
    """Return the frames in the order asked for, in `out` if given; the counterpart of `plan_reading`."""
    return frames if positions is None else np.take(frames, positions, axis=0, out=out)


def match(index: FrameIndex, decoded: Iterable, goals: np.ndarray, keep: Keep) -> tuple[int, bool]:
    """Keep the decoded frames nearest to `goals`; return how many, and whether times were rising.

    A frame is never replaced by one more than half a frame away, unless it repeats the one before.

    Args:
      index: of the video.
      decoded: (time, `av.VideoFrame`) of frames as they are decoded, or numbers in the place of times.
      goals: times, or numbers, of the frames wanted, rising.
      keep: called with the place of each among those wanted, and the frame.

    Raises:
      VideoError: if one of them is damaged.
    """
    spacing, repeats = index.half_spacing, index.timed and index.repeats
    found, before, frame_before, is_damaged, goals = 0, None, None, False, goals.tolist()
    for when, frame in decoded:
        if when is None or (before is not None and when <= before):
            return found, False
        # Decoders paint over what they cannot decode, and the frames up to the next keyframe are made from it.
        was_damaged, is_damaged = is_damaged, frame.is_corrupt or (is_damaged and not frame.key_frame)
        while found < len(goals) and when >= goals[found]:
            goal, is_bad = goals[found], is_damaged
            nearest, error = frame, when - goal
            if error and before is None:  # began too late to know what was shown at the goal
                return found, True
            if error and goal - before < error:
                nearest, error, is_bad = frame_before, goal - before, was_damaged
            if error > spacing and repeats:
                nearest, is_bad = frame_before, was_damaged
            elif error > spacing:
                return found, True
            _check_whole(is_bad, found)
            keep(found, nearest)
            found += 1
        if found == len(goals):
            return found, True
        before, frame_before = when, frame
    while found < len(goals) and before is not None and (repeats or goals[found] - before <= spacing):
        _check_whole(is_damaged, found)
        keep(found, frame_before)
        found += 1
    return found, True


def _check_whole(is_damaged: bool, found: int) -> None:
    """Raise a `VideoError` for a damaged frame, the one after `found` whole ones."""
    if is_damaged:
        raise VideoError(Problem.DAMAGED, f"a frame is damaged, {found} before it are whole", found)
