"""Batches of clips by Grain: the sample at a position is a function of seed and position alone.

    shuffle → repeat → one window of the video, decoded → slice of this host → batch → skip to the start step

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
"""

import re
from collections.abc import Iterator

import grain
from absl import flags  # for `_start` alone, which says why

from hvt_jax.data import clip_batches, counts, parallel, storages, usage
from hvt_jax.data.clip_batches import Batch
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

_SMALL_BYTES = 1 << 16
_FILES, _FILES_PER_WORKER = 48, 14  # open at a time; with 36 and 13 a run ended for want of them
_WORKERS_PAY = 2_000  # videos; in the seconds in which processes start, threads decode about as many small ones


def steps_per_epoch(dataset: Dataset, settings: DataSettings, batch_size: int) -> int:
    """Return how many training steps use every sample of `counts.training_samples` once, at least 1.

    The last batch of an epoch is filled from the next one, so steps and epochs drift apart by less than a step each.

    Raises:
      DataError: if no video is long enough.
    """
    return max(1, len(counts.training_samples(dataset, settings)[0]) // batch_size)


def train_batches(
    dataset: Dataset,
    settings: DataSettings,
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
      settings: how clips are cut from them.
      batch_size: samples of a step over all hosts.
      seed: of order and windows.
      start_step: steps to skip, without reading them.
      host: number of this host.
      hosts: how many hosts share a batch.

    Raises:
      DataError: if no video is long enough; later, from `next`, if a decoding process died or has no memory.
      ValueError: if the batch cannot be shared evenly.
    """
    batches = training_map(dataset, settings, batch_size=batch_size, seed=seed, host=host, hosts=hosts)[start_step:]
    return _start(batches, settings, parallel.count_workers(settings.num_workers), settings.read_threads)


def training_map(
    dataset: Dataset, settings: DataSettings, *, batch_size: int, seed: int, host: int = 0, hosts: int = 1
) -> grain.MapDataset:
    """Return the batch of every step, made where it is asked for, in the thread that asks; see `train_batches`."""
    share = clip_batches.Share(batch_size, _host_share(batch_size, hosts), host)
    storages.open_storage(settings, dataset)  # a wrong folder ends the run here, not a worker
    videos, numbers = counts.training_samples(dataset, settings)
    elements = grain.MapDataset.range(len(videos)).seed(seed).shuffle().repeat(None)
    return clip_batches.ClipBatches(elements, clip_batches.RandomClips(dataset, settings, seed, videos, numbers), share)


def evaluation_batches(
    dataset: Dataset, settings: DataSettings, *, batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Return batches with the central window of every video exactly once, in order; the last one is padded.

    Every host gets the same number of batches.

    Raises:
      ValueError: if the batch cannot be shared evenly.
    """
    share = clip_batches.Share(batch_size, _host_share(batch_size, hosts), host)
    storages.open_storage(settings, dataset)
    padded = -(-len(dataset) // batch_size) * batch_size
    batches = clip_batches.ClipBatches(
        grain.MapDataset.range(padded), clip_batches.CentreClips(dataset, settings), share
    )
    workers, threads = parallel.count_workers(settings.num_workers), settings.read_threads
    if workers and len(dataset) <= _WORKERS_PAY:
        workers, threads = 0, parallel.available_cores()
    return _start(batches, settings, workers, threads)


def shared_batches(
    samples: grain.MapDataset, settings: DataSettings, *, batch_size: int, start_step: int, host: int, hosts: int
) -> Iterator[Batch]:
    """Return batches of this host's share of `samples`, decoded ahead, from step `start_step` on.

    Raises:
      ValueError: if the batch cannot be shared evenly.
    """
    share = _host_share(batch_size, hosts)
    batches = _HostShare(samples, share, batch_size, host).batch(share, drop_remainder=True)[start_step:]
    return _start(batches, settings, parallel.count_workers(settings.num_workers), settings.read_threads)


class _HostShare(grain.MapDataset):
    """This host's rows of every batch, neighbours in it.

    A sample then has the same place in the global batch on any number of hosts, and with it the same augmentation,
    predictions and dropout. Every `hosts`-th sample would not do: a global array is put together host after host.
    """

    def __init__(self, samples: grain.MapDataset, share: int, batch_size: int, host: int):
        super().__init__(samples)
        self._share, self._batch_size, self._host = share, batch_size, host

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._share

    def __getitem__(self, index):
        batch, row = divmod(index, self._share)
        return self._parent[batch * self._batch_size + self._host * self._share + row]


def _host_share(batch_size: int, hosts: int) -> int:
    if batch_size % hosts:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {hosts} hosts; make it a multiple of {hosts}")
    return batch_size // hosts


def _start(batches: grain.MapDataset, settings: DataSettings, workers: int, threads: int) -> Iterator[Batch]:
    """Return an iterator that decodes ahead; it has a method `close`."""
    ahead = max(1, settings.prefetch_batches)
    # Each thread makes a whole batch, so there is no use for more threads than batches ahead.
    read = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(ahead, threads))
    if not workers:
        return iter(batches.to_iter_dataset(read))
    needed = _FILES + _FILES_PER_WORKER * workers
    if (limit := usage.allow_open_files(needed)) is not None and limit < needed:
        raise DataError(
            f"only {limit} files may be open, and {workers} decoding processes need some {needed}; raise the limit "
            "with `ulimit -n 4096`, or lower data.num_workers"
        )
    # Grain reads the flags of the process to hand them on to its own processes, and fails if no command has parsed
    # any, as in notebooks and tests. No flag is defined or read here: those belong to the commands.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    ahead = -(-ahead // workers)
    read = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(ahead, threads))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    # Labels and such travel by themselves: each piece of shared memory is an open file here and there.
    plain = grain.experimental.DatasetOptions(min_shm_size=_SMALL_BYTES)
    batches = grain.experimental.WithOptionsIterDataset(batches.to_iter_dataset(read), plain)
    return _FromWorkers(iter(batches.mp_prefetch(options, worker_init_fn=parallel.prepare_worker)))


class _FromWorkers(Iterator[Batch]):
    """Grain's batches; that a process which makes them has died is told as something the user can act on."""

    def __init__(self, batches: grain.DatasetIterator):
        self._batches: Iterator[Batch] = batches

    def __next__(self) -> Batch:
        try:
            return clip_batches.own(next(self._batches))
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
        batches, self._batches = self._batches, iter(())  # or it would be ended once more when all else is gone
        if hasattr(batches, "close"):
            batches.close()
