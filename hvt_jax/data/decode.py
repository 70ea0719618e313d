"""From a video file to the frames asked for, by PyAV; whatever is wrong with a file ends as a `VideoError`.

Decoding begins at the last keyframe before the first frame wanted and goes forward; frames are recognised by their
presentation times, never by counting from a seek. If they are not found there, everything is decoded from the start.
"""

import time
from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np

from hvt_jax.data import containers, images, indexing, profiling, transforms
from hvt_jax.data.containers import FrameIndex
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import Reader, VideoInfo, check_found, faults_named

Keep = Callable[[int, av.VideoFrame], None]  # takes the place of a frame among those wanted, and the frame

FRAMES_PER_TIMEOUT = 1000  # `read_all` may take the time limit for each so many, or no long film would pass


class VideoReader(Reader):
    """An open video file, or the bytes of one in `source`; a picture is a video of one frame."""

    def __init__(self, source: containers.Source, timeout_seconds: float, renew: Callable[[], None] | None = None):
        """Open a file, or the bytes of one, and list its frames.

        Args:
          source: the file.
          timeout_seconds: covers all use of this reader, or with `renew` each thousand frames.
          renew: called with every thousand frames that are listed or decoded.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """
        super().__init__(timeout_seconds)
        self.source, self._timeout_seconds, self._renew = source, timeout_seconds, renew
        self._container = self._picture = None
        self._is_fresh = False
        self._orientations = transforms.Orientations()
        with faults_named():
            containers.check_source(source)
            if not isinstance(source, bytes) and containers.is_picture(source):
                self._picture = picture = images.read_picture(source)
                self._index = FrameIndex(np.zeros(1, np.int64), *np.zeros((2, 0), np.int64), False, has_times=False)
                self.info = VideoInfo(1, 0.0, picture.height, picture.width, 0.0, "picture", picture.format.name)
                return
            self._open()
            try:
                listed = indexing.list_frames(source, self._container, self._stream, self._tick)
                self._index, self._is_fresh = listed
                self.info = containers.read_info(self._container, self._stream, self._index)
            except Exception:
                self.close()
                raise

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _numbers(self, indices: np.ndarray) -> np.ndarray:
        return self._index.frame_numbers(indices)

    def _decode(self, wanted: np.ndarray, frames: np.ndarray) -> int:
        is_exact = isinstance(self.source, bytes)  # of a storage, whose frames were given in RGB

        def keep(place: int, frame: av.VideoFrame) -> None:
            orientation = self._orientations.of(frame)
            frames[place] = transforms.fit_frame(frame, *frames.shape[1:3], orientation, is_exact, self.squeeze)

        with faults_named():
            return self._read_wanted(wanted, keep)

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
            check_found(self._read_from_start(wanted, keep), len(wanted))

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
            check_found(read(wanted, repeat), len(wanted))

    def _tick(self, number: int) -> None:
        """Raise a `VideoError` once the time is over; with every thousand frames it begins anew if it is renewed."""
        if self._renew is not None and number % FRAMES_PER_TIMEOUT == 0:
            self._renew()
            self._deadline = time.monotonic() + self._timeout_seconds
        self._check_time()

    def _open(self) -> None:
        if self._is_fresh:  # its frames were known and nothing has been read of it
            self._is_fresh = False
            return
        if self._picture is not None:
            return
        self.close()
        seconds = self._deadline - time.monotonic()
        self._container, self._stream = containers.open_file(self.source, seconds)

    @profiling.timed("decode")
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
            found, in_order = match(self._index, self._decoded(self._index.skipped), self._index.times[wanted], keep)
            if found == len(wanted) or in_order:
                return found
        self._open()
        numbered = ((number, frame) for number, (_, frame) in enumerate(self._decoded(self._index.skipped)))
        return match(self._index, numbered, wanted, keep)[0]

    def _read_run(self, wanted: np.ndarray, first: int, keep: Keep) -> bool:
        """Seek before the first frame wanted, which has place `first`; False if they are not all found there."""
        goals = self._index.times[wanted]
        key = np.searchsorted(self._index.key_times, goals[0], side="right") - 1
        if key < 0:
            return False
        try:
            self._is_fresh = False
            self._container.seek(int(self._index.key_seeks[key]), stream=self._stream, backward=True)
            found, _ = match(self._index, self._decoded(), goals, lambda place, frame: keep(first + place, frame))
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
