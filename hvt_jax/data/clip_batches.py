"""One window of each video, decoded straight into the batch that the trainer will see; fields as in `pipeline`."""

import dataclasses
import errno
from collections.abc import Callable

import grain
import numpy as np

from hvt_jax.data import parallel, sampling, stages, storages
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.data.problems import REASON_BYTES, Problem, VideoError, pack_reason
from hvt_jax.data.window_cache import cache_of
from hvt_jax.settings import DataSettings

Batch = dict[str, np.ndarray]

# Linux's MADV_POPULATE_WRITE: all pages at once instead of one fault each, and an error where they cannot be had,
# instead of a signal that ends the process.
_POPULATE_WRITE = 23


@dataclasses.dataclass(frozen=True)
class Share:
    """What of a batch is this host's: `rows` of `batch_size`, those of lower hosts before them."""

    batch_size: int
    rows: int
    host: int


class _SharedArray(grain.multiprocessing.SharedMemoryArray):
    """Is freed by whoever holds it last: the trainer, or this process if it has never handed it over."""

    @property
    def metadata(self) -> grain.multiprocessing.SharedMemoryArrayMetadata:
        """What the trainer is given in its place."""
        self._unlink_on_del = False
        return super().metadata


def own(batch: Batch) -> Batch:
    """Return a batch from a worker, its shared memory being freed with it, however this process ends."""
    for array in batch.values():
        if isinstance(array, dict):
            own(array)
        elif isinstance(array, grain.multiprocessing.SharedMemoryArray) and array._unlink_on_del:
            array.shm.unlink()  # the name; what is mapped stays
            array._unlink_on_del = False
    return batch


def _new_array(shape: tuple[int, ...]) -> np.ndarray:
    """Return room for pixels; in a worker it is memory that the trainer sees too, so that nothing is copied."""
    if not parallel.in_worker():
        return np.empty(shape, np.uint8)
    try:
        array = _SharedArray(shape, np.uint8)
        array.unlink_on_del()
        array.base.madvise(_POPULATE_WRITE)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        if error.errno != errno.EINVAL:  # an older kernel
            raise DataError(
                f"shared memory is full ({error.strerror}), a batch takes {np.prod(shape) / 2**20:.0f} MiB; lower "
                "data.prefetch_batches or train.batch_size, give the container more (docker --shm-size), or decode "
                "in threads: data.num_workers = 0"
            ) from error
    return array


class ClipBatches(grain.MapDataset):
    """Batches of this host, every clip decoded into its row: no sample is copied."""

    def __init__(self, elements: grain.MapDataset, clips: "RandomClips | CentreClips", share: Share):
        super().__init__(elements)
        self._clips, self._share = clips, share

    def __len__(self) -> int:
        return len(self._parent) // self._share.batch_size

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch = _new_batch(self._clips.settings, self._share.rows)
        first = index * self._share.batch_size + self._share.host * self._share.rows
        for row in range(self._share.rows):
            self._clips.fill(batch, row, first + row, int(self._parent[first + row]))
        return batch


@dataclasses.dataclass(frozen=True, eq=False)
class RandomClips:
    """Cuts a window of a video; where it is drawn, the draw is a function of (seed, epoch, video).

    The frames are counted when the file is opened, so that training need not wait for a look at all files.
    """

    dataset: Dataset
    settings: DataSettings
    seed: int
    videos: np.ndarray
    numbers: np.ndarray

    def fill(self, batch: Batch, row: int, position: int, element: int) -> None:
        """Read sample `element` of an epoch, at `position` in the order of all epochs, into a row."""
        video, number = int(self.videos[element]), int(self.numbers[element])
        epoch, step = int(position) // len(self.videos), self.settings.window_step

        def start(num_frames: int, span: int) -> int:
            if not self.settings.max_windows_per_video:
                return number * step
            rng = np.random.default_rng((self.seed, epoch, video))
            return sampling.nth_window_start(num_frames, span, step, number, rng)

        _read_clip(batch, row, self.dataset, self.settings, video, start)


@dataclasses.dataclass(frozen=True, eq=False)
class CentreClips:
    """Cuts the window in the middle of every video; what is beyond the last video is padding."""

    dataset: Dataset
    settings: DataSettings

    def fill(self, batch: Batch, row: int, position: int, element: int) -> None:
        """Read video `element` into a row."""
        del position
        if element < len(self.dataset):
            _read_clip(batch, row, self.dataset, self.settings, element, sampling.center_start)
        else:
            batch["video"][row], batch["index"][row], batch["label"][row] = 0, -1, -1


@stages.timed("sample")
def _read_clip(
    batch: Batch,
    row: int,
    dataset: Dataset,
    settings: DataSettings,
    number: int,
    choose_start: Callable[[int, int], int],
) -> None:
    """Read one sample; a video that cannot be read leaves an invalid row, never an exception.

    One that cannot be opened at all, or that has taken too long, gets into the quarantine of the data set.
    """
    video, pixels = dataset.videos[number], batch["video"][row]
    batch["index"][row], batch["label"][row] = number, video.labels[0]
    span = sampling.window_span(settings.num_frames, settings.frame_stride)
    cache = cache_of(dataset.caches, settings)
    if cache is not None and number in cache.lengths:
        start = choose_start(cache.lengths[number], span)
        if (window := cache.find(number, start)) is not None:
            pixels[...], own = window
            _mark_read(batch, row, start, own)
            return
    try:
        with storages.open_video(dataset, settings, video) as reader:
            count = reader.info.num_frames
            if count < span and settings.short_videos == "drop":
                raise VideoError(Problem.TOO_SHORT, f"{count} frames, a sample spans {span}", count)
            start = choose_start(count, span)
            indices, own = sampling.pick_frames(
                start, settings.num_frames, settings.frame_stride, count, settings.short_videos
            )
            reader.read(indices, *pixels.shape[1:3], pixels)
    except VideoError as error:
        pixels[...] = 0
        batch["problem"][row], batch["frames"][row] = error.problem, error.frames
        batch["reason"][row] = pack_reason(str(error))
        return
    _mark_read(batch, row, start, own)
    if cache is not None:
        cache.keep(number, start, pixels, own)
        cache.lengths[number] = count


def _mark_read(batch: Batch, row: int, start: int, own: np.ndarray) -> None:
    batch["start"][row], batch["frames"][row], batch["valid"][row] = start, len(own), True
    batch["frame_valid"][row] = own


def _new_batch(settings: DataSettings, rows: int) -> Batch:
    """Return an invalid batch; its pixels are yet to be written."""
    height, width = (round(side * settings.resize_margin) for side in (settings.height, settings.width))
    return {
        "video": _new_array((rows, settings.num_frames, height, width, 3)),
        "frame_valid": np.zeros((rows, settings.num_frames), bool),
        **{name: np.zeros(rows, np.int32) for name in ("label", "index", "start", "frames")},
        "valid": np.zeros(rows, bool),
        "problem": np.zeros(rows, np.int8),
        "reason": np.zeros((rows, REASON_BYTES), np.uint8),
    }
