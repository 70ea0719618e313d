"""Windows over whole videos of any length, decoded piece by piece and in order: memory does not grow with a video.

Several pieces are decoded at once, of one video or of several. A piece is decoded forward from the keyframe before it.
"""

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from hvt_jax.data import annotations, parallel, readers, sampling
from hvt_jax.data.catalog import csv_lists, folder
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.decode import VideoReader
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.settings import DataSettings

_PIECE_BYTES = 32 << 20  # of pixels in a piece
_MOST_THREADS = 16
_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Step:
    """How far apart windows start.

    Attributes:
      frames: of the video; 0 = a window begins where the one before ends.
      seconds: of the video, if not 0; then rounded to frames, at least one.
      centre: only the window in the middle of a video, as in evaluation.
    """

    frames: int = 0
    seconds: float = 0.0
    centre: bool = False

    def starts(self, num_frames: int, fps: float, settings: DataSettings) -> np.ndarray:
        """Return the first frames, int64 [windows], of the windows of a video."""
        length, stride = settings.num_frames, settings.frame_stride
        span = sampling.window_span(length, stride)
        if self.centre:
            return np.array([sampling.center_start(num_frames, span)])
        step = max(1, round(self.seconds * fps)) if self.seconds else self.frames or length * stride
        return sampling.covering_starts(num_frames, span, stride, step)


def parse_step(text: str) -> Step:
    """Return the step written as frames, `16`, or as seconds, `0.5s`; "" is the default, "centre" that of evaluation.

    Raises:
      DataError: if it is none of these.
    """
    if text in ("", "centre"):
        return Step(centre=text == "centre")
    try:
        step = Step(seconds=float(text[:-1])) if text.endswith("s") else Step(frames=int(text))
    except ValueError:
        step = Step()
    if not (1 <= step.frames <= 1_000_000 or 1e-6 <= step.seconds <= 1e6):
        raise DataError(f"window_step = {text!r}, but must be frames such as 16, or seconds such as 0.5s")
    return step


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Some windows of one video, neighbours in time.

    Attributes:
      video: number of the video in its data set.
      seconds: float64 [n, 2], when the windows begin and end, from the start of the file as a player counts; NaN where
        the file has no frame rate.
      pixels: uint8 [n, T, Y', X', 3], sizes as in `pipeline`.
      is_last: whether no further piece of the video follows.
      failed: windows of this piece that cannot be read; they are not among the n.
      reason: why not, "" if all could be read. Without any piece before, and n = 0, the video cannot be read.
    """

    video: int
    seconds: np.ndarray
    pixels: np.ndarray
    is_last: bool
    failed: int = 0
    reason: str = ""


def find_videos(path: str, settings: DataSettings, root: str = "") -> Dataset:
    """Return the videos of a folder, sorted, or of a list in a file, in its order; a list may come without labels.

    Args:
      path: a folder, or a file as `catalog.csv_lists` reads it.
      settings: how links are treated.
      root: folder that the paths in a list are relative to; "" = the folder of the list.

    Raises:
      DataError: if there is none, or naming the row that cannot be used.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_file():
        own = dataclasses.replace(settings, root=root or str(place.parent), storage="raw", storage_root="")
        return csv_lists.read_list(place, own)
    if not place.is_dir():
        raise DataError(f"{path}: no such folder or list; name a folder of videos, or a .csv file that lists some")
    if root:
        raise DataError(f"{path} is a folder, so another root, {root}, means nothing; leave it out")
    paths = annotations.list_files(place, folder.SUFFIXES, settings.follow_links)
    if not paths:
        raise DataError(f"{path}: no video there; known endings: {' '.join(sorted(folder.SUFFIXES))}")
    return Dataset(place, tuple(Video(name, ()) for name in paths), {})


def read_windows(
    dataset: Dataset, settings: DataSettings, step: Step, *, first: int = 0, most: int = 64
) -> Iterator[Piece]:
    """Yield all windows of the videos from number `first` on, in order; closing it ends the decoding.

    Args:
      dataset: the videos, as files.
      settings: how windows are cut and decoded.
      step: where they start.
      first: number of the first video.
      most: windows in a piece; fewer where they are large.
    """
    threads = min(parallel.available_cores(), _MOST_THREADS)
    height, width = (round(side * settings.resize_margin) for side in (settings.height, settings.width))
    size = settings.num_frames * height * width * 3
    reader = _Reader(dataset, settings, step, max(1, min(most, _PIECE_BYTES // size)), (height, width))
    pool = concurrent.futures.ThreadPoolExecutor(threads, "decode")
    try:
        plans = _ahead(pool, reader.plan, range(first, len(dataset)), threads)
        tasks = (reader.with_room(task) for plan in plans for task in plan)
        yield from _ahead(pool, reader.read, tasks, threads + 1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: concurrent.futures.Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], most: int
) -> Iterator[_Result]:
    """Yield `function` of every item in their order, at most `most` of them begun and not yet taken."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclasses.dataclass(frozen=True)
class _Task:
    """Windows of one piece; none where the video cannot be opened."""

    video: int
    starts: np.ndarray
    is_last: bool
    reason: str = ""
    room: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    dataset: Dataset
    settings: DataSettings
    step: Step
    windows: int
    size: tuple[int, int]

    def plan(self, number: int) -> list[_Task]:
        """Return the pieces of a video, one without windows if it cannot be opened."""
        span = sampling.window_span(self.settings.num_frames, self.settings.frame_stride)
        try:
            with self._open(number) as reader:
                frames, fps = readers.frame_range(reader.info, self.dataset.videos[number]), reader.info.fps
            if len(frames) < span and self.settings.short_videos == "drop":
                raise VideoError(Problem.TOO_SHORT, f"{len(frames)} frames, a sample spans {span}", len(frames))
        except VideoError as error:
            return [_Task(number, np.zeros(0, np.int64), True, f"{error.problem}: {error}")]
        starts = self.step.starts(len(frames), fps, self.settings)
        cuts = range(0, len(starts), self.windows)
        return [_Task(number, starts[cut : cut + self.windows], cut == cuts[-1]) for cut in cuts]

    def with_room(self, task: _Task) -> _Task:
        """Return the task with room for its pixels, taken by the thread that frees it: no holes stay in others."""
        shape = (len(task.starts), self.settings.num_frames, *self.size, 3)
        return dataclasses.replace(task, room=np.empty(shape, np.uint8))

    def read(self, task: _Task) -> Piece:
        """Return the windows of a piece; those that cannot be read are left out."""
        settings, video = self.settings, self.dataset.videos[task.video]
        shape = task.room.shape
        seconds = np.zeros((len(task.starts), 2))
        if not len(task.starts):
            return Piece(task.video, seconds, np.zeros(shape, np.uint8), True, 0, task.reason)
        try:
            with self._open(task.video) as reader:
                frames = readers.frame_range(reader.info, video)
                wanted, _ = sampling.pick_frames(
                    task.starts, settings.num_frames, settings.frame_stride, len(frames), settings.short_videos
                )
                span = sampling.window_span(settings.num_frames, settings.frame_stride)
                ends = np.minimum(task.starts + span, len(frames))
                for column, places in enumerate((task.starts, ends)):
                    seconds[:, column] = _shown_at(reader.info, frames.start + places)
                pixels, kept, reason = self._read_windows(reader, wanted + frames.start, task.room)
        except VideoError as error:  # the file has gone, or changed
            kept, pixels, reason = np.zeros(len(task.starts), bool), np.zeros((0, *shape[1:]), np.uint8), str(error)
        failed = int(len(kept) - kept.sum())
        return Piece(task.video, seconds[kept], pixels, task.is_last, failed, reason)

    def _read_windows(
        self, reader: VideoReader, frames: np.ndarray, room: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Return pixels, which of the windows they are, and why some are missing.

        All in one go, so that no frame is decoded twice; one by one only where that meets damage.
        """
        try:
            reader.read(frames.reshape(-1), *self.size, room.reshape(-1, *room.shape[2:]))
            return room, np.ones(len(frames), bool), ""
        except VideoError as error:
            reasons = [f"{error.problem}: {error}"] if len(frames) == 1 else []
            pixels, kept = [], np.zeros(len(frames), bool)
            for place, window in enumerate(frames if len(frames) > 1 else ()):
                try:
                    pixels.append(reader.read(window, *self.size))
                    kept[place] = True
                except VideoError as again:
                    reasons.append(f"{again.problem}: {again}")
            return np.array(pixels, np.uint8).reshape(-1, *room.shape[1:]), kept, (reasons or [""])[0]

    def _open(self, number: int) -> VideoReader:
        path = self.dataset.root / self.dataset.videos[number].path
        reader = VideoReader(path, self.settings.video_timeout_seconds, renew=lambda: None)
        reader.squeeze = self.settings.resize == "squeeze"
        return reader


def _shown_at(info, frames: np.ndarray) -> np.ndarray:
    """Return the seconds at which frames of a file begin to be shown."""
    if info.fps <= 0:
        return np.zeros(len(frames)) if info.num_frames == 1 else np.full(len(frames), np.nan)
    return info.start_seconds + frames / info.fps
