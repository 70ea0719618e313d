"""An open video in any storage, seen whole or through a segment in seconds; and what stays open between samples."""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import av
import numpy as np

from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem, VideoError

MAX_PIXELS = 8192 * 8192
MAX_FRAMES = 1_000_000


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video; height and width in pixels as stored, before any rotation.

    `duration_seconds` is 0 where no rate is known. `start_seconds` is when the first frame is shown, counted from the
    start of the file as players do: sound may begin before it. `num_streams` counts the video streams that are no
    attached pictures; one of them is read.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    duration_seconds: float
    codec: str = ""
    pixel_format: str = ""
    start_seconds: float = 0.0
    num_streams: int = 1

    @classmethod
    def stored(cls, num_frames: int, fps: float, height: int, width: int) -> "VideoInfo":
        """Return what is known of a video whose frames are stored one by one, 0 for what is not."""
        return cls(num_frames, fps, height, width, num_frames / fps if fps else 0.0)


class Reader:
    """An open video. Use it in a `with` statement, in one thread; storages say how frames are decoded.

    Attributes:
      info: length, rate and size; 0 where the storage does not know them.
      squeeze: resize frames without keeping their shape (`data.resize`); set before the first one is read.
    """

    info: VideoInfo
    squeeze: bool = False

    def __init__(self, timeout_seconds: float):
        """Allow so many seconds for all use of it."""
        self._deadline = time.monotonic() + timeout_seconds

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""

    def upright_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the frames, upright; storages of single frames turn nothing."""
        return self.info.height, self.info.width

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices`, uint8 [T, height, width, 3] in RGB, 0-255.

        Each frame is turned upright as its metadata says, resized to cover height x width and cut in the centre,
        or with `squeeze` resized to just that.

        Args:
          indices: integers [T] in any order, repeats allowed, on an even time grid (at constant rate: frame numbers).
          height: pixel rows.
          width: pixel columns.
          out: where to put them, by default a new array; after an error it holds anything.

        Raises:
          VideoError: if a frame is missing or damaged, or the time is over.
        """
        numbers = self._numbers(_checked(indices, self.info.num_frames))
        if (numbers[1:] > numbers[:-1]).all():  # nearly always; then they go to where they belong without a copy
            frames = np.empty((len(numbers), height, width, 3), np.uint8) if out is None else out
            self._decode_all(numbers, frames)
            return frames
        wanted, positions = np.unique(numbers, return_inverse=True)
        frames = np.empty((len(wanted), height, width, 3), np.uint8)
        self._decode_all(wanted, frames)
        return np.take(frames, positions, axis=0, out=out)

    def _decode_all(self, wanted: np.ndarray, frames: np.ndarray) -> None:
        check_found(self._decode(wanted, frames), len(wanted))

    def _numbers(self, indices: np.ndarray) -> np.ndarray:
        """Return the frames that stand at `indices`."""
        return indices

    def _decode(self, wanted: np.ndarray, frames: np.ndarray) -> int:
        """Decode frames `wanted`, rising, into uint8 [T, Y, X, 3]; return how many were found."""
        raise NotImplementedError

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise VideoError(Problem.TIMEOUT, "took longer than data.video_timeout_seconds to read")


def check_found(found: int, wanted: int) -> None:
    """Raise a `VideoError` if not all `wanted` frames were found."""
    if found < wanted:
        raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {wanted} frames", found)


def _checked(indices: np.ndarray, count: int, where: str = "") -> np.ndarray:
    indices = np.asarray(indices, np.int64)
    outside = indices[(indices < 0) | (indices >= count)]
    if outside.size:
        raise VideoError(Problem.TOO_FEW_FRAMES, f"frame {outside[0]} of {count}{where} was asked for", count)
    return indices


@contextlib.contextmanager
def faults_named(what: str = "cannot be decoded") -> Iterator[None]:
    """Turn whatever a library raises over the bytes of a video into a `VideoError`; nothing else can be at fault."""
    try:
        yield
    except VideoError:
        raise
    except (TimeoutError, av.error.ExitError) as error:
        raise VideoError(Problem.TIMEOUT, "took longer than data.video_timeout_seconds to read") from error
    except Exception as error:  # over damaged files PyAV alone raises five types, h5py and array_record six more
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(Problem.UNREADABLE, f"{what} ({reason.splitlines()[0][:200]})") from error


def frame_range(info: VideoInfo, video: Video) -> range:
    """Return the frames of a video file that `video` means: all, or those shown from its start to before its end.

    Seconds count from the start of the file, as in a player. A segment has one frame at least, and what it has beyond
    the end of the file is left out.

    Raises:
      VideoError: if no picture is shown in the segment, or there is no frame rate to find it by.
    """
    if not (video.start_seconds or video.end_seconds):
        return range(info.num_frames)
    if info.fps <= 0:
        raise VideoError(Problem.UNREADABLE, "has no frame rate, so no segment in seconds can be found")
    first = max(0, round((video.start_seconds - info.start_seconds) * info.fps))
    if first >= info.num_frames:
        seconds = info.start_seconds + info.num_frames / info.fps
        reason = f"its segment begins at {video.start_seconds:g} s, the video ends at {seconds:.2f} s"
        raise VideoError(Problem.TOO_SHORT, reason)
    stop = round((video.end_seconds - info.start_seconds) * info.fps) if video.end_seconds else info.num_frames
    if stop <= 0 < info.start_seconds:
        reason = (
            f"its segment ends at {video.end_seconds:g} s, the first picture is shown at {info.start_seconds:.2f} s"
        )
        raise VideoError(Problem.TOO_SHORT, reason)
    return range(first, min(max(stop, first + 1), info.num_frames))


def restrict(reader: Reader, video: Video) -> Reader:
    """Return `reader`, seen through the segment of `video` where it has one; the reader is closed on errors.

    Raises:
      VideoError: see `frame_range`.
    """
    try:
        frames = frame_range(reader.info, video)
    except VideoError:
        reader.close()
        raise
    return reader if len(frames) == reader.info.num_frames else SegmentReader(reader, frames)


class SegmentReader(Reader):
    """A reader whose frame 0 is the first one of a segment; its `info` is that of the segment."""

    def __init__(self, reader: Reader, frames: range):
        """Show `frames` of `reader` alone."""
        self._first, self._reader = frames.start, reader
        self.close, self.upright_size, self.squeeze = reader.close, reader.upright_size, reader.squeeze
        seconds = len(frames) / reader.info.fps
        self.info = dataclasses.replace(reader.info, num_frames=len(frames), duration_seconds=seconds)

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices` of the segment, see `Reader.read`."""
        indices = _checked(indices, self.info.num_frames, " in the segment")
        return self._reader.read(indices + self._first, height, width, out)


class LruCache:
    """Values by key, the least recently used forgotten first where there are too many; threads may share it.

    What is forgotten is not closed here but by its last user's reference: another thread may still be reading.
    """

    def __init__(self, make: Callable[[Any], Any], most: int, size: Callable[[Any], int] = lambda _: 1):
        """Make what is missing by `make`; keep values of `most` in all, each counting as its `size`."""
        self._make, self._most, self._size, self.size = make, most, size, 0
        self._values: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.RLock()

    def __reduce__(self):
        return LruCache, (self._make, self._most)  # open files stay behind

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        """Return the value of `key`, made now if it is not there; other threads wait for it."""
        with self._lock:
            value = self.find(key)
            return self.keep(key, self._make(key)) if value is None else value

    def find(self, key: Hashable) -> Any:
        """Return the value of `key`, None if it is not there, or not there any more."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def keep(self, key: Hashable, value: Any) -> Any:
        """Keep a value, unless another thread has been first; return what is kept."""
        with self._lock:
            if key in self._values:
                return self._values[key]
            self._values[key] = value
            self.size += self._size(value)
            while self.size > self._most:
                self.size -= self._size(self._values.popitem(last=False)[1])
            return value
