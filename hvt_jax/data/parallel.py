"""How many processes and threads decode, and how they live and die with the trainer."""

import os
import signal
import threading
import time

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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
