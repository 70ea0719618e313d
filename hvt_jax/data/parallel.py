"""How many processes and threads decode, and how they live and die with the trainer."""

import multiprocessing
import os
import signal
import threading

_MAX_WORKERS = 8


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_workers(asked: int) -> int:
    """Return the number of decoding processes: `asked`, or for -1 one per core above the first, at most 8."""
    return asked if asked >= 0 else min(available_cores() - 1, _MAX_WORKERS)


def prepare_worker(worker: int, workers: int) -> None:
    """Set up a process that Grain has just started; the arguments are Grain's.

    It stays off the accelerator, leaves signals to the trainer, which may still want batches while it saves, and ends
    within seconds once the trainer is gone: after `kill -9` nobody else would end it.
    """
    del worker, workers
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    # Its parent's id would not do: a trainer that dies while this process still imports is not its parent any more.
    multiprocessing.parent_process().join()
    os._exit(1)
