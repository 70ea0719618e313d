"""What all storages share: the interface, a reader of frames that lie ready, and what is written."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from hvt_jax.data import containers, frame_index, images, stages
from hvt_jax.data.dataset import Video
from hvt_jax.data.decode import VideoInfo
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.segments import Reader


class Storage(Protocol):
    """Where the videos of a data set are kept. Threads may share one, and it can be sent to other processes."""

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one video.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """


class StoredFrames:
    """Reads a video whose frames lie ready, each on its own; storages say how a few of them are fetched.

    Attributes:
      info: length, rate and size; 0 where the storage does not know them.
    """

    def __init__(self, info: VideoInfo, fetch: Callable[[np.ndarray], Iterator], timeout_seconds: float):
        """Read by `fetch`, which gives the frames at rising indices as JPEG or PNG bytes or as uint8 [Y, X, 3]."""
        self.info = info
        self._fetch = fetch
        self._deadline = time.monotonic() + timeout_seconds

    def __enter__(self) -> "StoredFrames":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is read from."""
        self._fetch = None

    def fetch(self, indices: np.ndarray) -> list[bytes | np.ndarray]:
        """Return the frames at rising `indices` as they are stored, as JPEG or PNG bytes or uint8 [Y, X, 3]."""
        with faults_named("cannot be read"):
            return list(self._fetch(np.asarray(indices, np.int64)))

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices`, uint8 [T, height, width, 3] in RGB, in `out` if given; no other is decoded.

        Raises:
          VideoError: if a frame is missing or damaged, or the time is over.
        """
        indices = np.asarray(indices, np.int64)
        count = self.info.num_frames
        outside = indices[(indices < 0) | (indices >= count)]
        if outside.size:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"frame {outside[0]} of {count} was asked for", count)
        wanted, positions, frames = frame_index.plan_reading(indices, height, width, out)
        found, room = 0, images.Room(self.info.height, self.info.width, height, width)
        with faults_named("cannot be read"):
            for found, content in enumerate(stages.timed_items("read", lambda: self._fetch(wanted)), start=1):
                containers.check_deadline(self._deadline)
                room.put(content, frames[found - 1])
        if found < len(wanted):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {len(wanted)} frames", found)
        return frame_index.finish_reading(frames, positions, out)


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """One video as it is stored: a JPEG file for each frame, or one .mp4 file.

    Attributes:
      path: `Video.path`.
      num_frames: frames, at an even spacing in time.
      fps: frames per second, 0 if unknown.
      height: pixel rows.
      width: pixel columns.
      jpegs: the JPEG file of every frame; empty if `mp4` holds the video.
      mp4: the .mp4 file; empty if `jpegs` hold the frames.
    """

    path: str
    num_frames: int
    fps: float
    height: int
    width: int
    jpegs: Sequence[bytes] = ()
    mp4: bytes = b""


@dataclasses.dataclass(frozen=True)
class WriteOptions:
    """How shards are written; `sync` waits until the bytes are on the disk, so that a loss of power keeps them."""

    sync: bool = True


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a shard holds.

    Attributes:
      paths: `Video.path` of every video, in the order in which they came.
      num_frames: frames of all of them.
      sha256: hash of the shard's bytes, in hexadecimal digits.
    """

    paths: tuple[str, ...]
    num_frames: int
    sha256: str


@contextlib.contextmanager
def faults_named(what: str) -> Iterator[None]:
    """Turn whatever a library raises over stored bytes into a `VideoError`; nothing but the file can be at fault."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:  # h5py and array_record alone raise six types over damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(Problem.UNREADABLE, f"{what} ({reason.splitlines()[0][:200]})") from error
