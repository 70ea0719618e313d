"""How many processes and threads decode, how they live and die with the trainer, and when Ctrl-C reaches whom."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

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


@contextlib.contextmanager
def interrupts_noticed() -> Iterator[list[int]]:
    """Give a list that every Ctrl-C is put in, instead of raising between any two lines of a pool that holds locks."""
    noticed: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python takes no handlers there
        yield noticed
        return
    before = signal.signal(signal.SIGINT, lambda number, _: noticed.append(number))
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the body is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
