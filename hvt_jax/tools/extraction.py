"""Features of every window of your own videos, by the compiled function that protocols the levels in training."""

import collections
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from hvt_jax.data import video_windows
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.data.video_windows import Piece, Step
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.run.trained import Trained
from hvt_jax.tools.feature_files import Done, FeatureFile

Progress = Callable[[int, int], object]  # takes how many videos are done, and how many windows


class Extracted(NamedTuple):
    """What became of the videos: windows in the file, and the videos that could not be read, in part or at all."""

    windows: int
    damaged: list[Done]
    resumed: int

    @property
    def lost(self) -> int:
        """Videos without any window."""
        return sum(not video.windows for video in self.damaged)


def whole_batch(size: int) -> int:
    """Return the batch size nearest to `size`, not below it, that all devices can share."""
    devices = jax.device_count()
    return -(-size // devices) * devices


def extract(
    trained: Trained,
    dataset: Dataset,
    path: str,
    *,
    levels: tuple[str, ...],
    step: Step,
    batch_size: int,
    on_progress: Progress,
) -> Extracted:
    """Write the features of all windows of all videos to the file `path`; go on where an earlier call was interrupted.

    A level's feature is the mean of its tokens over the window, as in training's evaluation (`steps.build_encode`).

    Args:
      trained: the model; its settings say how windows are cut and what is done with short videos.
      dataset: the videos, as files.
      path: ends with .npz or .parquet.
      levels: of the model.
      step: where windows start.
      batch_size: windows the model sees at a time, rounded up to what the devices can share.
      on_progress: called as videos are done.

    Raises:
      SettingsError: if the file cannot be written so.
      DataError: if no video can be read.
    """
    batch_size = whole_batch(batch_size)
    widths = {level: getattr(trained.settings.model, level).width for level in levels}
    with FeatureFile(path, widths, _identity(trained, dataset, step)) as file:
        resumed = len(file.done)
        pieces = video_windows.read_windows(dataset, trained.settings.data, step, first=resumed, most=batch_size)
        on_progress(resumed, len(file))
        encode, previous = trained.compile(lambda definition: _build_encode(definition, levels)), None
        with contextlib.closing(pieces):
            for batch in _batches(pieces, batch_size):
                current = batch, encode({"video": batch.pixels}) if len(batch.video) else {}
                # Fetch one behind, so that the device works while the next windows are decoded.
                if previous is not None:
                    _keep(file, *previous, on_progress)
                previous = current
        if previous is not None:
            _keep(file, *previous, on_progress)
        damaged = [video for video in file.done if video.reason]
        return Extracted(_finish(file, dataset, damaged), damaged, resumed)


def _finish(file: FeatureFile, dataset: Dataset, damaged: list[Done]) -> int:
    """Write the file and return the number of its windows; a DataError if there are none."""
    if not len(file):
        file.discard()
        first = f"{dataset.videos[0].path}: {damaged[0].reason}"
        raise DataError(f"none of {len(dataset)} videos can be read; {first}")
    return file.write(lambda numbers: _texts(dataset, numbers))


def _build_encode(definition: Definition, levels: tuple[str, ...]) -> Callable:
    """Return `encode(params, stats, video)` for some levels; what they do not need is not computed."""
    encode = steps.build_encode(definition)

    def encode_levels(params, stats, video):
        encoded = encode(params, stats, video)
        return {level: encoded[level] for level in levels}

    return encode_levels


class _Batch(NamedTuple):
    """Windows for one call of the model, the first `len(video)` of which are real, and the videos they complete."""

    video: np.ndarray
    seconds: np.ndarray
    pixels: np.ndarray
    done: list[tuple[int, Done]]  # after so many of these windows


def _batches(pieces: Iterator[Piece], batch_size: int) -> Iterator[_Batch]:
    """Yield the windows of all pieces in full batches; the last one is filled up with zeros."""
    waiting: collections.deque[Piece] = collections.deque()
    rows, done, windows, failed, reason = 0, [], 0, 0, ""
    for piece in pieces:
        waiting.append(piece)
        rows, windows, failed = rows + len(piece.pixels), windows + len(piece.pixels), failed + piece.failed
        reason = reason or piece.reason
        if piece.is_last:
            done.append((rows, Done(piece.video, windows, failed, reason)))
            windows, failed, reason = 0, 0, ""
        while rows >= batch_size:
            ready = [entry for entry in done if entry[0] <= batch_size]
            yield _take(waiting, batch_size, batch_size, ready)
            rows, done = rows - batch_size, [(place - batch_size, video) for place, video in done[len(ready) :]]
    if done:
        yield _take(waiting, rows, batch_size, done)


def _take(waiting: collections.deque[Piece], rows: int, batch_size: int, done: list) -> _Batch:
    """Take the first `rows` windows off `waiting`."""
    parts: list[tuple[Piece, slice]] = []
    needed = rows
    while needed:
        piece = waiting.popleft()
        count = min(needed, len(piece.pixels))
        parts.append((piece, slice(count)))
        needed -= count
        if count < len(piece.pixels):
            rest = slice(count, None)
            waiting.appendleft(Piece(piece.video, piece.seconds[rest], piece.pixels[rest], piece.is_last, 0, ""))
    video = np.concatenate([np.zeros(0, np.int64), *(np.full(part.stop, piece.video) for piece, part in parts)])
    seconds = np.concatenate([np.zeros((0, 2)), *(piece.seconds[part] for piece, part in parts)])
    pixels = [piece.pixels[part] for piece, part in parts]
    if rows and rows < batch_size:
        pixels.append(np.zeros((batch_size - rows, *pixels[0].shape[1:]), np.uint8))
    whole = pixels[0] if len(pixels) == 1 else np.concatenate(pixels) if pixels else np.zeros(0, np.uint8)
    return _Batch(video, seconds, whole, done)


def _keep(file: FeatureFile, batch: _Batch, encoded: dict[str, jax.Array], on_progress: Progress) -> None:
    features, before = jax.device_get(encoded), 0
    for place, done in [*batch.done, (len(batch.video), None)]:
        rows = slice(before, place)
        if place > before:
            own = {level: values[rows] for level, values in features.items()}
            file.append(batch.video[rows], batch.seconds[rows], own)
        if done is not None:
            file.finish_video(done)
        before = place
    on_progress(len(file.done), len(file))


def _texts(dataset: Dataset, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of text of videos: their path, and their label where they have one."""
    videos = [dataset.videos[number] for number in numbers]
    texts = {"path": np.array([video.path for video in videos], np.str_)}
    for classes in dataset.label_names.values():  # one set at most
        texts["label"] = np.array([classes[video.labels[0]] for video in videos], np.str_)
    return texts


def _identity(trained: Trained, dataset: Dataset, step: Step) -> dict:
    """Return what the features depend on: model, settings of the data, videos and places of the windows."""
    data, digest = trained.settings.data, hashlib.sha256()
    for video in dataset.videos:
        path = dataset.root / video.path
        try:
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = ()
        digest.update(json.dumps([str(path), video.start_seconds, video.end_seconds, state]).encode())
    fields = ("num_frames", "frame_stride", "height", "width", "resize", "resize_margin", "short_videos")
    fields += ("mean", "std")
    values = {name: getattr(data, name) for name in fields}
    return json.loads(
        json.dumps({"model": trained.digest, "data": values, "videos": digest.hexdigest(), "step": str(step)})
    )
