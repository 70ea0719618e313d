"""What the system says of this process and its children; Linux only, elsewhere nothing is known."""

import multiprocessing
import os
import pathlib
import time


def resident_mb() -> float:
    """Return the resident memory of this process and those it started, in 10^6 bytes; 0 if unknown.

    Memory that they share, as batches on their way, is counted in each.
    """
    numbers = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
    return sum(map(_resident, numbers)) * _page_size() / 1e6


def cpu_seconds() -> float | None:
    """Return the seconds of a core that this process and those it started, still running, have used; None if unknown.

    On a machine that others use too, this says what work costs where a clock does not.
    """
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            # After the name, which may hold anything, come the fields from the third on.
            fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):
            return None
    return total


def bytes_read() -> int | None:
    """Return the bytes that this process has read by system calls, from the file cache or a disk; None if unknown."""
    try:
        fields = dict(row.split(": ") for row in pathlib.Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])
    except (OSError, ValueError, KeyError):
        return None


def open_files() -> int | None:
    """Return how many files this process has open, None where the system does not say."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None


def allow_open_files(needed: int) -> int | None:
    """Raise the limit of open files to `needed` if this process may; return the limit, None if there is none."""
    try:
        import resource

        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY and limit < needed:
            limit = needed if most == resource.RLIM_INFINITY else min(needed, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
        return None if limit == resource.RLIM_INFINITY else limit
    except (ImportError, ValueError, OSError):  # Windows has none
        return None


def _resident(number: str) -> int:
    try:
        return int(pathlib.Path(f"/proc/{number}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # it has just ended, or there is no such folder
        return 0


def _page_size() -> int:
    return os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
