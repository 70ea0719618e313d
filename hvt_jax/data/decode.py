"""From a video file to the frames asked for, by PyAV; whatever is wrong with a file ends as a `VideoError`.

Decoding begins at the last keyframe before the first frame wanted and goes forward; frames are recognised by their
presentation times, never by counting from a seek. If they are not found there, everything is decoded from the start.
"""

import os
import time
from collections.abc import Callable, Iterator

import av
import numpy as np

from hvt_jax.data import containers, frame_order, index_cache, stages, transforms
from hvt_jax.data.containers import VideoInfo
from hvt_jax.data.problems import Problem, VideoError, faults_named

FRAMES_PER_TIMEOUT = 1000  # `read_all` may take the time limit for each so many, or no long film would pass

Keep = Callable[[int, av.VideoFrame], None]  # takes the place of a frame among those wanted, and the frame


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

    def __init__(self, source: containers.Source, timeout_seconds: float):
        """Open a file, or the bytes of one, and list its frames; `timeout_seconds` covers all use of this reader.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """
        self.source, self._timeout_seconds = source, timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._container, self._is_fresh = None, False
        with faults_named():
            self._open()
            try:
                listed = index_cache.list_frames(source, self._container, self._stream, self._deadline)
                self._index, self._is_fresh = listed
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
        wanted, positions, frames = frame_order.plan_reading(numbers, height, width, out)

        def keep(place: int, frame: av.VideoFrame) -> None:
            frames[place] = transforms.fit_frame(frame, height, width)

        with faults_named():
            containers.check_found(self._read_wanted(wanted, keep), len(wanted))
        return frame_order.finish_reading(frames, positions, out)

    def upright_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the first frame, upright; a `VideoError` if none can be decoded."""
        with faults_named():
            self._open()
            for _, frame in self._decoded(timed=False):
                turned = round(frame.rotation / 90) % 2
                return (frame.width, frame.height) if turned else (frame.height, frame.width)
        raise VideoError(Problem.TOO_FEW_FRAMES, "no frame can be decoded")

    def read_all(self, keep: Keep) -> None:
        """Decode every frame that `read` can be asked for and call `keep(number, frame)` with each, as it is stored.

        Numbers rise; they begin again at 0, once, where the times of the frames turn out to be of no use. The time
        limit begins anew with every thousand frames.

        Raises:
          VideoError: if a frame is not found, the file is damaged, or the time is over.
        """
        wanted = np.arange(self.info.num_frames)
        with faults_named():
            containers.check_found(self._read_from_start(wanted, self._renewing(keep)), len(wanted))

    def read_range(self, frames: range, keep: Keep) -> None:
        """Call `keep(number, frame)` with each frame that `read` would take for `frames`, numbers from 0, as stored.

        Time limit, numbers that begin again at 0 and errors as in `read_all`; only what is needed is decoded.
        """
        numbers = self._index.frame_numbers(np.asarray(frames))  # rising: at a variable rate with repeats and gaps
        wanted, counts = np.unique(numbers, return_counts=True)
        ends = np.cumsum(counts).tolist()

        def repeat(place: int, frame: av.VideoFrame) -> None:
            for number in range(ends[place - 1] if place else 0, ends[place]):
                keep(number, frame)

        read = self._read_from_start if len(frames) == self.info.num_frames else self._read_wanted
        with faults_named():
            containers.check_found(read(wanted, self._renewing(repeat)), len(wanted))

    def _renewing(self, keep: Keep) -> Keep:
        def keep_in_time(place: int, frame: av.VideoFrame) -> None:
            if place % FRAMES_PER_TIMEOUT == 0:
                self._deadline = time.monotonic() + self._timeout_seconds
            keep(place, frame)

        return keep_in_time

    def _open(self) -> None:
        if self._is_fresh:  # its frames were known and nothing has been read of it
            self._is_fresh = False
            return
        self.close()
        seconds = self._deadline - time.monotonic()
        self._container, self._stream = containers.open_file(self.source, seconds)

    def _read_info(self) -> VideoInfo:
        stream, index = self._stream, self._index
        count = len(index.times)
        seconds = float((index.times[-1] - index.times[0]) * (stream.time_base or 0)) if index.timed else 0.0
        fps = (count - 1) / seconds if seconds > 0 else float(stream.average_rate or 0)
        size, seconds = (stream.height, stream.width), count / fps if fps else 0.0
        codec = stream.codec_context
        return VideoInfo(count, fps, *size, seconds, codec.codec.canonical_name, codec.pix_fmt or "")

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
            found, in_order = self._match(self._decoded(timed=True), self._index.times[wanted], keep)
            if found == len(wanted) or in_order:
                return found
        self._open()
        return self._match(self._decoded(timed=False), wanted, keep)[0]

    def _read_run(self, wanted: np.ndarray, first: int, keep: Keep) -> bool:
        """Seek before the first frame wanted, which has place `first`; False if they are not all found there."""
        goals = self._index.times[wanted]
        key = np.searchsorted(self._index.key_times, goals[0], side="right") - 1
        if key < 0:
            return False
        try:
            self._is_fresh = False
            self._container.seek(int(self._index.key_seeks[key]), stream=self._stream, backward=True)
            found, _ = self._match(self._decoded(timed=True), goals, lambda place, frame: keep(first + place, frame))
            return found == len(wanted)
        except av.FFmpegError:  # some formats cannot seek; reading from the start decides whether the file is bad
            return False
        except VideoError as error:  # damage, perhaps only because what came before is missing
            if error.problem is not Problem.DAMAGED:
                raise
            return False

    def _decoded(self, timed: bool) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Yield decoded frames with their time, or with their number where times are of no use."""
        number = 0
        for packet in self._container.demux(self._stream):
            containers.check_deadline(self._deadline)
            for frame in packet.decode():
                yield (frame.pts if timed else number), frame
                number += 1

    def _match(self, decoded, goals: np.ndarray, keep: Keep) -> tuple[int, bool]:
        """Keep the decoded frames nearest to `goals`; return how many, and whether times were rising.

        A frame is never replaced by one more than half a frame away.
        """
        spacing = self._index.half_spacing
        found, before, frame_before, is_damaged = 0, None, None, False
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
                if error > spacing:
                    return found, True
                containers.check_whole(is_bad, found)
                keep(found, nearest)
                found += 1
            if found == len(goals):
                return found, True
            before, frame_before = when, frame
        if found == len(goals) - 1 and before is not None and goals[found] - before <= spacing:
            containers.check_whole(is_damaged, found)
            keep(found, frame_before)
            found += 1
        return found, True
