"""From a video file to the frames asked for, by PyAV; whatever is wrong with a file ends as a `VideoError`.

Decoding begins at the last keyframe before the first frame wanted and goes forward; frames are recognised by their
presentation times, never by counting from a seek. If they are not found there, everything is decoded from the start.
"""

import os
import pathlib
import time
from collections.abc import Callable, Iterator

import av
import numpy as np

from hvt_jax.data import containers, frame_index, images, indexing, picture_files, stages, transforms
from hvt_jax.data.containers import VideoInfo
from hvt_jax.data.frame_index import Keep
from hvt_jax.data.problems import Problem, VideoError, faults_named

FRAMES_PER_TIMEOUT = 1000  # `read_all` may take the time limit for each so many, or no long film would pass


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
    """An open video file: `info`, `source`, and `read` for frames. Use it in a `with` statement."""

    def __init__(self, source: containers.Source, timeout_seconds: float, renew: Callable[[], None] | None = None):
        """Open a file, or the bytes of one, and list its frames.

        Args:
          source: the file.
          timeout_seconds: covers all use of this reader, or with `renew` each thousand frames.
          renew: called with every thousand frames that are listed or decoded.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """
        self.source, self._timeout_seconds, self._renew = source, timeout_seconds, renew
        self._deadline = time.monotonic() + timeout_seconds
        self._container = self._picture = None
        self._is_fresh = False
        self._orientations = transforms.Orientations()
        with faults_named():
            containers.check_source(source)
            if not isinstance(source, bytes) and picture_files.is_picture(pathlib.Path(source)):
                self._picture = images.read_picture(source)
                self._index, self.info = containers.one_frame(self._picture)
                return
            self._open()
            try:
                listed = indexing.list_frames(source, self._container, self._stream, self._tick)
                self._index, self._is_fresh = listed
                self.info = containers.read_info(self._container, self._stream, self._index)
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

    def read(self, indices: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return frames `indices`, uint8 [T, height, width, 3] in RGB, 0-255.

        Each frame is turned upright as its metadata says, resized to cover height x width and cut in the centre.

        Args:
          indices: integers [T] in any order, repeats allowed, on an even time grid (at constant rate: frame numbers).
          height: pixel rows.
          width: pixel columns.
          out: where to put them, by default a new array; after an error it holds anything.

        Raises:
          VideoError: if a frame is not found, the file is damaged, or the time is over.
        """
        indices = np.asarray(indices, np.int64)
        count = self.info.num_frames
        outside = indices[(indices < 0) | (indices >= count)]
        if outside.size:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"frame {outside[0]} of {count} was asked for", count)
        numbers = self._index.frame_numbers(indices)
        wanted, positions, frames = frame_index.plan_reading(numbers, height, width, out)
        is_exact = isinstance(self.source, bytes)  # of a storage, whose frames were given in RGB

        def keep(place: int, frame: av.VideoFrame) -> None:
            frames[place] = transforms.fit_frame(frame, height, width, self._orientations.of(frame), is_exact)

        with faults_named():
            containers.check_found(self._read_wanted(wanted, keep), len(wanted))
        return frame_index.finish_reading(frames, positions, out)

    def upright_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the first frame, upright; a `VideoError` if none can be decoded."""
        with faults_named():
            self._open()
            for _, frame in self._decoded(self._index.skipped):
                return transforms.upright_size(frame, self._orientations.of(frame))
        raise VideoError(Problem.TOO_FEW_FRAMES, "no frame can be decoded")

    def read_all(self, keep: Keep) -> None:
        """Decode every frame that `read` can be asked for and call `keep(number, frame)` with each, as it is stored.

        Numbers rise; they begin again at 0, once, where the times of the frames turn out to be of no use.

        Raises:
          VideoError: if a frame is not found, the file is damaged, or the time is over.
        """
        wanted = np.arange(self.info.num_frames)
        with faults_named():
            containers.check_found(self._read_from_start(wanted, keep), len(wanted))

    def read_range(self, frames: range, keep: Keep) -> None:
        """Call `keep(number, frame)` with each frame that `read` would take for `frames`, numbers from 0, as stored.

        Numbers that begin again at 0 and errors as in `read_all`; only what is needed is decoded.
        """
        numbers = self._index.frame_numbers(np.asarray(frames))  # rising: at a variable rate with repeats and gaps
        wanted, counts = np.unique(numbers, return_counts=True)
        ends = np.cumsum(counts).tolist()

        def repeat(place: int, frame: av.VideoFrame) -> None:
            for number in range(ends[place - 1] if place else 0, ends[place]):
                keep(number, frame)

        read = self._read_from_start if len(frames) == self.info.num_frames else self._read_wanted
        with faults_named():
            containers.check_found(read(wanted, repeat), len(wanted))

    def _tick(self, number: int) -> None:
        """Raise a `VideoError` once the time is over; with every thousand frames it begins anew if it is renewed."""
        if self._renew is not None and number % FRAMES_PER_TIMEOUT == 0:
            self._renew()
            self._deadline = time.monotonic() + self._timeout_seconds
        containers.check_deadline(self._deadline)

    def _open(self) -> None:
        if self._is_fresh:  # its frames were known and nothing has been read of it
            self._is_fresh = False
            return
        if self._picture is not None:
            return
        self.close()
        seconds = self._deadline - time.monotonic()
        self._container, self._stream = containers.open_file(self.source, seconds)

    @stages.timed("decode")
    def _read_wanted(self, wanted: np.ndarray, keep: Keep) -> int:
        """Keep frames and return how many of `wanted`, rising frame numbers, were found."""
        if self._index.timed:
            runs = self._index.split_runs(wanted)
            if all(self._read_run(wanted[first:last], first, keep) for first, last in runs):
                return len(wanted)
        return self._read_from_start(wanted, keep)

    def _read_from_start(self, wanted: np.ndarray, keep: Keep) -> int:
        """Do as `_read_wanted` without a seek."""
        if self._index.timed:
            self._open()
            found, in_order = frame_index.match(
                self._index, self._decoded(self._index.skipped), self._index.times[wanted], keep
            )
            if found == len(wanted) or in_order:
                return found
        self._open()
        numbered = ((number, frame) for number, (_, frame) in enumerate(self._decoded(self._index.skipped)))
        return frame_index.match(self._index, numbered, wanted, keep)[0]

    def _read_run(self, wanted: np.ndarray, first: int, keep: Keep) -> bool:
        """Seek before the first frame wanted, which has place `first`; False if they are not all found there."""
        goals = self._index.times[wanted]
        key = np.searchsorted(self._index.key_times, goals[0], side="right") - 1
        if key < 0:
            return False
        try:
            self._is_fresh = False
            self._container.seek(int(self._index.key_seeks[key]), stream=self._stream, backward=True)
            found, _ = frame_index.match(
                self._index, self._decoded(), goals, lambda place, frame: keep(first + place, frame)
            )
            return found == len(wanted)
        except av.FFmpegError:  # some formats cannot seek; reading from the start decides whether the file is bad
            return False
        except VideoError as error:  # damage, perhaps only because what came before is missing
            if error.problem is not Problem.DAMAGED:
                raise
            return False

    def _decoded(self, skipped: int = 0) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Yield decoded frames with their time, without the first `skipped` packets."""
        if self._picture is not None:
            yield 0, self._picture
            return
        for number, packet in enumerate(self._container.demux(self._stream)):
            self._tick(number)
            if number >= skipped:
                for frame in packet.decode():
                    yield frame.pts, frame
