"""Batches of clips by Grain: the sample at a position is a function of seed and position alone.

    shuffle → repeat → slice of this host → one window of each video, decoded into the batch → skip to the start step

So a run resumed at step n sees what it would have seen, on any number of hosts, processes and threads. A batch is a
dict of numpy arrays, B samples of this host:

    video    uint8 [B, T, Y', X', 3]  RGB; Y' and X' are `height` and `width` times `resize_margin`; zeros if not valid
    label    int32 [B]                class number in the first label set; -1 for padding
    index    int32 [B]                number of the video in the data set; -1 for padding
    start    int32 [B]                first frame of the window
    frames   int32 [B]                frames that could be decoded
    frame_valid  bool [B, T]          False for frames repeated to fill a short video, and for all of no video
    valid    bool  [B]                False for damaged videos and for padding
    problem  int8  [B]                why not, a `Problem`
    reason   uint8 [B, 200]           the same in words, see `problems.unpack_reason`

With a `sampling.Plan` there is an axis of views V, and a plan of several groups gives dicts of arrays by group:

    video        uint8 [B, V, T, Y, X, 3]
    start        int32 [B, V]
    crop         int32 [B, V, 2]           top and left pixel in the resized frame; 0 where the centre is cut
    frame_valid  bool  [B, V, T]
"""

import concurrent.futures
import dataclasses
import functools
import logging
import re
import sys
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags  # for `_start` alone, which says why

from hvt_jax.data import batches, parallel, sampling, shared_arrays, storages, usage
from hvt_jax.data.batches import Batch
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import VideoError
from hvt_jax.data.readers import restrict
from hvt_jax.settings import DataSettings

_LOG = logging.getLogger(__name__)

_THREADS_PER_CORE = 2  # that count frames: opening a file is half waiting
_FILES, _FILES_PER_WORKER = 48, 8  # open at a time beside shared memory; with fewer a run ended for want of them
_WORKERS_PAY = 2_000  # videos; in the seconds in which processes start, threads decode about as many small ones


def steps_per_epoch(
    dataset: Dataset, settings: DataSettings, batch_size: int, plan: sampling.Plan | None = None
) -> int:
    """Return how many training steps use every sample of `train_batches` once, at least 1.

    The last batch of an epoch is filled from the next one, so steps and epochs drift apart by less than a step each.

    Raises:
      DataError: if no video is long enough.
    """
    cut = settings if plan is None else _cut_for(settings, plan)
    return max(1, len(training_samples(dataset, cut)[0]) // batch_size)


def train_batches(
    dataset: Dataset,
    settings: DataSettings,
    plan: sampling.Plan | None = None,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Return endless batches, the first of which is that of step `start_step`.

    Args:
      dataset: the videos.
      settings: how windows are cut from them; sizes and strides are those of the plan, where there is one.
      plan: which views of a video, every video coming once an epoch; None = windows, as the settings say.
      batch_size: samples of a step over all hosts.
      seed: of order, windows and crops.
      start_step: steps to skip, without reading them.
      host: number of this host.
      hosts: how many hosts share a batch.

    Raises:
      DataError: if no video is long enough; later, from `next`, if a decoding process died or has no memory.
      ValueError: if the batch cannot be shared evenly.
    """
    workers = parallel.count_workers(settings.num_workers)
    order = {"batch_size": batch_size, "seed": seed, "host": host, "hosts": hosts}
    steps = training_map(dataset, settings, plan, **order, in_workers=workers > 0)[start_step:]
    return _start(steps, settings, workers, settings.read_threads, 1 if plan is None else len(plan.groups()))


def training_map(
    dataset: Dataset,
    settings: DataSettings,
    plan: sampling.Plan | None = None,
    *,
    batch_size: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    in_workers: bool = False,
) -> grain.MapDataset:
    """Return the batch of every step, made where it is asked for, in the thread that asks; see `train_batches`."""
    share = _share(batch_size, host, hosts)
    storages.open_storage(settings, dataset)  # a wrong folder ends the run here, not a worker
    if plan is None:
        plan, cut = _window(settings, "drawn" if settings.max_windows_per_video else "all"), settings
    else:
        cut = _cut_for(settings, plan)
    videos, numbers = training_samples(dataset, cut)
    elements = grain.MapDataset.range(len(videos)).seed(seed).shuffle().repeat(None)
    samples = batches.Samples(dataset, settings, plan, videos, numbers, seed)
    return batches.Batches(elements, samples, share, in_workers)


def evaluation_batches(
    dataset: Dataset,
    settings: DataSettings,
    plan: sampling.Plan | None = None,
    *,
    batch_size: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Return batches with every video exactly once, in order; the last one is padded. Every host gets the same number.

    Without a plan the window in the middle of each is cut.

    Raises:
      ValueError: if the batch cannot be shared evenly.
    """
    share = _share(batch_size, host, hosts)
    storages.open_storage(settings, dataset)
    workers, threads = parallel.count_workers(settings.num_workers), settings.read_threads
    if workers and len(dataset) <= _WORKERS_PAY:
        workers, threads = 0, parallel.available_cores()
    videos = np.arange(len(dataset))
    samples = batches.Samples(dataset, settings, plan or _window(settings, "middle"), videos, 0 * videos)
    elements = grain.MapDataset.range(-(-len(dataset) // batch_size) * batch_size)
    steps = batches.Batches(elements, samples, share, workers > 0)
    return _start(steps, settings, workers, threads, len(samples.plan.groups()))


def _cut_for(settings: DataSettings, plan: sampling.Plan) -> DataSettings:
    """Return settings by which every video that is long enough for the views gives one sample."""
    return dataclasses.replace(settings, num_frames=plan.span, frame_stride=1, max_windows_per_video=1)


def _window(settings: DataSettings, choice: str) -> sampling.Window:
    """Return the plan of one window a video, its margin for random crops on the device included."""
    size = (round(side * settings.resize_margin) for side in (settings.height, settings.width))
    shape = sampling.ViewShape(settings.num_frames, settings.frame_stride, *size)
    return sampling.Window(shape, choice, settings.window_step)


def _share(batch_size: int, host: int, hosts: int) -> batches.Share:
    if batch_size % hosts:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {hosts} hosts; make it a multiple of {hosts}")
    return batches.Share(batch_size, batch_size // hosts, host)


@functools.lru_cache(maxsize=16)
def training_samples(dataset: Dataset, settings: DataSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sample of an epoch its video and its number among the samples of that video, int64 [samples].

    With `max_windows_per_video` m > 0 a video gives m samples, fewer if it is known to have fewer windows; what windows
    they are is drawn anew in every epoch. With m = 0 the number is that of the window, and all windows are there.
    Frames are counted, once, for m = 0 and where short videos are dropped; damaged videos then have none.

    Raises:
      DataError: if nothing is left.
    """
    wanted = settings.max_windows_per_video
    counts = [video.num_frames for video in dataset.videos]
    if None in counts and (wanted == 0 or settings.short_videos == "drop"):
        counts = count_frames(dataset, settings)
    if None in counts:
        samples = np.full(len(dataset), wanted)
    else:
        span = sampling.window_span(settings.num_frames, settings.frame_stride)
        table = sampling.sliding_windows(
            counts, settings.num_frames, settings.frame_stride, settings.window_step, settings.short_videos
        )
        samples = np.bincount(table.video, minlength=len(dataset))
        samples = np.minimum(samples, wanted) if wanted else samples
        if not len(table):
            raise DataError(
                f"{dataset.root}: none of {len(dataset)} videos has the {span} frames of a sample (longest: "
                f"{max(counts)}); lower data.num_frames or data.frame_stride, or set data.short_videos = 'loop'"
            )
    videos = np.repeat(np.arange(len(dataset)), samples)
    return videos, np.arange(len(videos)) - np.repeat(np.cumsum(samples) - samples, samples)


def count_frames(dataset: Dataset, settings: DataSettings) -> list[int]:
    """Return the frames of every video, 0 for one that cannot be read; says so in the log."""
    _LOG.info("counting the frames of %d videos in %s", len(dataset), dataset.root)
    counts, bad = [], []
    storage = storages.open_storage(settings, dataset)

    def count(video: Video) -> int | VideoError:
        try:
            with restrict(storage.open_video(video), video) as reader:
                return reader.info.num_frames
        except VideoError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(_THREADS_PER_CORE * parallel.available_cores()) as pool:
        for video, result in zip(dataset.videos, pool.map(count, dataset.videos), strict=True):
            if isinstance(result, VideoError):
                bad.append(f"{video.path}: {result}")
                result = 0
            counts.append(result)
            if len(counts) % 10_000 == 0:
                _LOG.info("%d of %d videos counted", len(counts), len(dataset))
    if bad:
        _LOG.warning("%d of %d videos cannot be read: %s", len(bad), len(dataset), "; ".join(bad[:10]))
    return counts


def _start(steps: grain.MapDataset, settings: DataSettings, workers: int, threads: int, groups: int) -> Iterator[Batch]:
    """Return an iterator that decodes batches ahead, of so many groups of views; it has a method `close`."""
    ahead, threads = -(-max(1, settings.prefetch_batches) // max(1, workers)), max(1, threads)
    buffered = max(ahead, threads)
    # Each thread makes a whole batch, so there is no use for more threads than batches ahead.
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
    if not workers:
        return iter(steps.to_iter_dataset(read))
    # Under way are what a process has decoded ahead, the queue to the trainer and what waits there; three are in work.
    shared = shared_arrays.OPEN_FILES * (buffered + 2 * ahead + 3) * groups
    needed = _FILES + (_FILES_PER_WORKER + shared) * workers
    if (limit := usage.allow_open_files(needed)) is not None and limit < needed:
        raise DataError(
            f"only {limit} files may be open, and {workers} decoding processes need some {needed}; raise the limit "
            "with `ulimit -n 4096`, or lower data.num_workers"
        )
    # Grain reads the flags of the process to hand them on to its own processes, and fails if no command has parsed
    # any, as in notebooks and tests. No flag is defined or read here: those belong to the commands.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    # Pixels have memory of their own; nothing else is worth a piece of Grain's, which is an open file here and there.
    plain = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    steps = grain.experimental.WithOptionsIterDataset(steps.to_iter_dataset(read), plain)
    return _FromWorkers(iter(steps.mp_prefetch(options, worker_init_fn=parallel.prepare_worker)))


class _FromWorkers(Iterator[Batch]):
    """Grain's batches; that a process which makes them has died is told as something the user can act on."""

    def __init__(self, steps: grain.DatasetIterator):
        self._steps: Iterator[Batch] = steps
        self._desk = shared_arrays.Desk()

    def __next__(self) -> Batch:
        try:
            return self._desk.take_all(next(self._steps))
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            code = re.search(r"exit code (-?\d+)", str(error))
            raise DataError(
                f"a decoding process ended with {code[1] if code else 'an unknown code'} (-9: killed, most likely for "
                "memory; -11: a video that its decoder cannot bear); find such videos with python -m hvt_jax scan, or "
                "lower data.num_workers, and run the same command again"
            ) from error

    def close(self) -> None:
        """End the processes."""
        steps, self._steps = self._steps, iter(())  # or it would be ended once more when all else is gone
        if hasattr(steps, "close"):
            steps.close()
