"""How fast batches are made here and where their time goes: measurements; `loader_advice` says what follows from them.

Everything runs on the videos of the config, in an order of its own seed. What was read before is read again from the
file cache of the system: a first epoch from a slow disk is slower than what is measured after it.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator

from hvt_jax.data import parallel, pipeline, profiling, usage
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

_TRIAL_BATCH = 32  # clips, at most: large batches would take minutes on few cores and say the same


@dataclasses.dataclass(frozen=True)
class OneThread:
    """One thread that makes batches, and nothing else running.

    Attributes:
      clips: how many were made.
      seconds: of each clip by stage, see `profiling`.
      bytes_read: of each clip by system calls; None where the system does not say.
      invalid: share of clips that could not be read.
      cpu_share: of the time not spent reading that this thread really ran; clearly less than 1 on a busy machine.
    """

    clips: int
    seconds: dict[str, float]
    bytes_read: float | None
    invalid: float
    cpu_share: float

    @property
    def clips_per_second(self) -> float:
        """Clips per second and core."""
        return 1 / sum(self.seconds.values())


@dataclasses.dataclass(frozen=True)
class Setting:
    """How many processes and threads decode, and how far ahead; fields of the config by these names."""

    num_workers: int
    read_threads: int
    prefetch_batches: int

    @property
    def decoders(self) -> int:
        """Threads that decode, in all processes."""
        return max(1, self.num_workers) * self.read_threads

    @property
    def size(self) -> tuple[int, int, int]:
        """What makes one setting smaller than another: decoders, then processes, then batches in memory."""
        return self.decoders, self.num_workers, self.prefetch_batches


@dataclasses.dataclass(frozen=True)
class Trial:
    """The real loader under one setting, its batches taken as fast as they come.

    Attributes:
      setting: of the loader.
      first_batch_seconds: from the call to the first batch.
      clips_per_second: after what was under way with the first batch.
      memory_mb: resident memory of this process and its workers at the end, in 10^6 bytes; 0 if unknown.
      cpu_seconds: of a core, for each clip, in all processes; None if unknown.
    """

    setting: Setting
    first_batch_seconds: float
    clips_per_second: float
    memory_mb: float
    cpu_seconds: float | None


def measure_one_thread(
    dataset: Dataset, settings: DataSettings, *, batch_size: int, seed: int, seconds: float
) -> OneThread:
    """Return where the time of clips goes, of at least two batches after one that warms up."""
    batch_size = min(batch_size, _TRIAL_BATCH)
    batches = pipeline.training_map(dataset, settings, batch_size=batch_size, seed=seed)
    batches[0]
    clips = invalid = 0
    with profiling.watch() as watch:
        began, ran, read = time.perf_counter(), time.thread_time(), usage.bytes_read()
        for number in itertools.count(1):
            batch = watch.lap("collate", batches.__getitem__, number)
            clips += batch_size
            invalid += int((~batch["valid"]).sum())
            if number > 1 and time.perf_counter() - began >= seconds:
                break
    ran = (time.thread_time() - ran) / (time.perf_counter() - began - watch.seconds["read"])
    if invalid == clips:
        raise DataError(f"{dataset.root}: none of {clips} clips could be read; python -m hvt_jax scan says why")
    read = None if read is None else (usage.bytes_read() - read) / clips
    by_stage = {name: watch.seconds[name] / clips for name in profiling.STAGES}
    return OneThread(clips, by_stage, read, invalid / clips, ran)


def present_setting(settings: DataSettings) -> Setting:
    """Return the setting that the config has, -1 workers resolved for this machine."""
    return Setting(parallel.count_workers(settings.num_workers), settings.read_threads, settings.prefetch_batches)


def sweep_settings(cores: int, present: Setting) -> list[Setting]:
    """Return the settings worth trying on so many cores, the present one first, each once.

    Threads of this process, up to two a core; processes of one thread, one fewer than cores and as many, and half;
    then twice the threads and half and twice the batches ahead.
    """
    few, ahead = sorted({1, max(1, cores // 2), max(1, cores - 1), cores}), present.prefetch_batches
    threads = [Setting(0, count, max(ahead, count)) for count in sorted({1, cores, min(2 * cores, 16)})]
    workers = [Setting(min(count, 64), 1, ahead) for count in few]
    most = workers[-1].num_workers
    others = [Setting(most, 2, ahead), Setting(most, 1, max(1, ahead // 2)), Setting(most, 1, 2 * ahead)]
    return list(dict.fromkeys([present, *threads, *workers, *others]))


def try_setting(
    dataset: Dataset, settings: DataSettings, setting: Setting, *, batch_size: int, seed: int, seconds: float
) -> Trial:
    """Start the loader and take batches from it for `seconds` after the first ones."""
    batch_size = min(batch_size, _TRIAL_BATCH)
    settings = dataclasses.replace(settings, **dataclasses.asdict(setting))
    began = time.perf_counter()
    with closing_batches(
        pipeline.train_batches(dataset, settings, batch_size=batch_size, seed=seed, start_step=0)
    ) as batches:
        next(batches)
        first = time.perf_counter() - began
        # What was begun with the first batch comes with it or at once after it, and says nothing of the pace.
        for _ in range(setting.decoders + setting.prefetch_batches):
            next(batches)
        began, used = time.perf_counter(), usage.cpu_seconds()
        for taken in itertools.count(1):
            next(batches)
            elapsed = time.perf_counter() - began
            # Each decoder gives whole batches, so fewer than two of each would be a matter of luck.
            if elapsed >= seconds and taken >= 2 * setting.decoders:
                break
        memory, used_then = usage.resident_mb(), usage.cpu_seconds()
    cost = None if None in (used, used_then) else (used_then - used) / (taken * batch_size)
    return Trial(setting, first, taken * batch_size / elapsed, memory, cost)


@contextlib.contextmanager
def closing_batches(batches: Iterator[pipeline.Batch]) -> Iterator[Iterator[pipeline.Batch]]:
    """Give batches for the time of a `with` block, then end the processes that make them."""
    try:
        yield batches
    finally:
        batches.close()


def sweep(
    dataset: Dataset,
    settings: DataSettings,
    *,
    batch_size: int,
    seed: int,
    seconds: float,
    note: Callable[[str], None] = print,
) -> list[Trial]:
    """Return a trial of every sensible setting, the present one first; `seconds` is for all, start-up apart."""
    wanted = sweep_settings(parallel.available_cores(), present_setting(settings))
    trials = []
    for number, setting in enumerate(wanted, start=1):
        note(f"setting {number} of {len(wanted)}")
        trials.append(
            try_setting(dataset, settings, setting, batch_size=batch_size, seed=seed, seconds=seconds / len(wanted))
        )
    return trials
