"""From a video file to the frames asked for, by PyAV; whatever is wrong with a file ends as a `VideoError`.

Decoding begins at the last keyframe before the first frame wanted and goes forward; frames are recognised by their
presentation times, never by counting from a seek. If they are not found there, everything is decoded from the start.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

import av
import numpy as np

from hvt_jax.data import containers, transforms
from hvt_jax.data.containers import Problem, VideoError

_SEEK_GAIN = 4  # frames that must be saved before a seek is cheaper than decoding on


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video; height and width in pixels as stored, before any rotation."""

    num_frames: int
    fps: float
    height: int
    width: int
    duration_seconds: float


def probe(path: str | os.PathLike, timeout_seconds: float = 30.0) -> VideoInfo:
    """Return size, length and rate of a video, counting its frames where the header does not.

    Raises:
      VideoError: if it is missing, damaged or without video.
    """
    with VideoReader(path, timeout_seconds) as reader:
        return reader.info


def decode_frames(
    path: str | os.PathLike, indices: np.ndarray, height: int, width: int, timeout_seconds: float = 30.0
) -> np.ndarray:
    """Return frames `indices` of a video, uint8 [T, height, width, 3] in RGB, see `VideoReader.read`.

    Raises:
      VideoError: if the video cannot be read or a frame is missing.
    """
    with VideoReader(path, timeout_seconds) as reader:
        return reader.read(indices, height, width)


class VideoReader:
    """An open video file: `info`, and `read` for frames. Use it in a `with` statement."""

    def __init__(self, source: containers.Source, timeout_seconds: float):
        """Open a file, or the bytes of one, and list its frames; `timeout_seconds` covers all use of this reader.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """
        self._source = source
        self._deadline = time.monotonic() + timeout_seconds
        self._container = None
        with _faults_named():
            self._open()
            try:
                self._index = containers.index_frames(self._container, self._stream, self._deadline)
                self.info = self._read_info()
            except Exception:
                self.close()
                raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, indices: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return frames `indices`, uint8 [T, height, width, 3] in RGB, 0-255.

        Each frame is turned upright as its metadata says, resized to cover height x width and cut in the centre.

        Args:
          indices: integers [T] in any order, repeats allowed, on an even time grid (at constant rate: frame numbers).
          height: pixel rows.
          width: pixel columns.

        Raises:
          VideoError: if a frame is not found, the file is damaged, or the time is over.
        """
        indices = np.asarray(indices, np.int64)
        count = self.info.num_frames
        outside = indices[(indices < 0) | (indices >= count)]
        if outside.size:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"frame {outside[0]} of {count} was asked for", count)
        numbers = self._index.frame_numbers(indices)
        wanted, positions = np.unique(numbers, return_inverse=True)
        frames = np.empty((len(wanted), height, width, 3), np.uint8)
        with _faults_named():
            found = self._read_wanted(wanted, frames)
        if found < len(wanted):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {len(wanted)} frames", found)
        return frames[positions]

    def _open(self) -> None:
        self.close()
        seconds = self._deadline - time.monotonic()
        self._container, self._stream = containers.open_file(self._source, seconds)

    def _read_info(self) -> VideoInfo:
        stream, index = self._stream, self._index
        count = len(index.times)
        seconds = float((index.times[-1] - index.times[0]) * (stream.time_base or 0)) if index.timed else 0.0
        fps = (count - 1) / seconds if seconds > 0 else float(stream.average_rate or 0)
        return VideoInfo(count, fps, stream.height, stream.width, count / fps if fps else 0.0)

    def _read_wanted(self, wanted: np.ndarray, frames: np.ndarray) -> int:
        """Fill `frames` and return how many of `wanted`, rising frame numbers, were found."""
        if self._index.timed:
            runs = _split_runs(wanted, self._index)
            if all(self._read_run(wanted[first:last], frames[first:last]) for first, last in runs):
                return len(wanted)
            self._open()
            found, in_order = self._match(self._decoded(timed=True), self._index.times[wanted], frames)
            if found == len(wanted) or in_order:
                return found
        self._open()
        return self._match(self._decoded(timed=False), wanted, frames)[0]

    def _read_run(self, wanted: np.ndarray, frames: np.ndarray) -> bool:
        """Seek before the first frame wanted and fill `frames`; False if they are not all found there."""
        goals = self._index.times[wanted]
        key = np.searchsorted(self._index.key_times, goals[0], side="right") - 1
        if key < 0:
            return False
        try:
            self._container.seek(int(self._index.key_seeks[key]), stream=self._stream, backward=True)
            return self._match(self._decoded(timed=True), goals, frames)[0] == len(wanted)
        except av.FFmpegError:  # some formats cannot seek; reading from the start decides whether the file is bad
            return False

    def _decoded(self, timed: bool) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Yield decoded frames with their time, or with their number where times are of no use."""
        number = 0
        for packet in self._container.demux(self._stream):
            containers.check_deadline(self._deadline)
            for frame in packet.decode():
                yield (frame.pts if timed else number), frame
                number += 1

    def _match(self, decoded, goals: np.ndarray, frames: np.ndarray) -> tuple[int, bool]:
        """Fill `frames` with the decoded frames nearest to `goals`; return how many, and whether times were rising.

        A frame is never replaced by one more than half a frame away.
        """
        spacing = self._index.half_spacing
        found, before, frame_before = 0, None, None
        for when, frame in decoded:
            if when is None or (before is not None and when <= before):
                return found, False
            while found < len(goals) and when >= goals[found]:
                goal = goals[found]
                nearest, error = frame, when - goal
                if error and before is None:  # began too late to know what was shown at the goal
                    return found, True
                if error and goal - before < error:
                    nearest, error = frame_before, goal - before
                if error > spacing:
                    return found, True
                frames[found] = fit_frame(nearest, *frames.shape[1:3])
                found += 1
            if found == len(goals):
                return found, True
            before, frame_before = when, frame
        if found == len(goals) - 1 and before is not None and goals[found] - before <= spacing:
            frames[found] = fit_frame(frame_before, *frames.shape[1:3])
            found += 1
        return found, True


def _split_runs(wanted: np.ndarray, index: containers.FrameIndex) -> list[tuple[int, int]]:
    """Cut `wanted` into (first, last) ranges, a new one wherever a later keyframe saves decoding."""
    keys = np.searchsorted(index.times, index.key_times)
    key_of = keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)] if len(keys) else wanted * 0
    cuts = 1 + np.flatnonzero(key_of[1:] - wanted[:-1] >= _SEEK_GAIN)
    edges = [0, *cuts.tolist(), len(wanted)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def fit_frame(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """Return one frame upright, covering the target and cut in its centre, uint8 [height, width, 3]."""
    if frame.width * frame.height > containers.MAX_PIXELS:
        raise VideoError(Problem.TOO_LARGE, f"{frame.width}x{frame.height} pixels")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    stored_height, stored_width = (width, height) if turns % 2 else (height, width)
    box = transforms.cover_box(frame.height, frame.width, stored_height, stored_width)
    resized = frame.reformat(box.resized_width, box.resized_height, "rgb24", interpolation="BILINEAR", threads=1)
    pixels = resized.to_ndarray()[box.top : box.top + stored_height, box.left : box.left + stored_width]
    return np.rot90(pixels, turns) if turns else pixels


@contextlib.contextmanager
def _faults_named() -> Iterator[None]:
    """Turn whatever the decoder raises into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except (TimeoutError, av.error.ExitError) as error:
        raise VideoError(Problem.TIMEOUT, "took longer than data.video_timeout_seconds to read") from error
    except Exception as error:  # five types were seen from damaged files, and nothing but the file can be at fault
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(Problem.UNREADABLE, f"cannot be decoded ({reason})") from error
