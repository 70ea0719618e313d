"""Segments of videos, given in seconds: any reader restricted to the frames of one."""

import dataclasses
from typing import Protocol, TypeVar

import numpy as np

from hvt_jax.data.containers import VideoInfo
from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem, VideoError


class Reader(Protocol):
    """An open video in any storage, see `decode.VideoReader`. Use it in a `with` statement, in one thread."""

    info: VideoInfo

    def __enter__(self) -> "Reader": ...

    def __exit__(self, *_) -> None: ...

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices`, uint8 [T, height, width, 3] in RGB, see `decode.VideoReader.read`.

        Raises:
          VideoError: if a frame is missing or damaged, or the time is over.
        """

    def close(self) -> None:
        """Close what is open."""


_AnyReader = TypeVar("_AnyReader", bound=Reader)


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


def restrict(reader: _AnyReader, video: Video) -> "_AnyReader | SegmentReader":
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


def upright_size(reader: Reader) -> tuple[int, int]:
    """Return height and width in pixels of the frames of `reader`, upright; storages that turn nothing say nothing."""
    if hasattr(reader, "upright_size"):
        return reader.upright_size()
    return reader.info.height, reader.info.width


class SegmentReader:
    """A reader whose frame 0 is the first one of a segment; its `info` is that of the segment."""

    def __init__(self, reader: Reader, frames: range):
        """Show `frames` of `reader` alone."""
        self._reader, self._first = reader, frames.start
        seconds = len(frames) / reader.info.fps
        self.info = dataclasses.replace(reader.info, num_frames=len(frames), duration_seconds=seconds)

    def __enter__(self) -> "SegmentReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the reader underneath."""
        self._reader.close()

    def upright_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the frames."""
        return upright_size(self._reader)

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices` of the segment, uint8 [T, height, width, 3], see `decode.VideoReader.read`.

        Raises:
          VideoError: if a frame is outside the segment, or cannot be read.
        """
        indices = np.asarray(indices, np.int64)
        outside = indices[(indices < 0) | (indices >= self.info.num_frames)]
        if outside.size:
            reason = f"frame {outside[0]} of {self.info.num_frames} in the segment was asked for"
            raise VideoError(Problem.TOO_FEW_FRAMES, reason, self.info.num_frames)
        return self._reader.read(indices + self._first, height, width, out)
