"""Become another Python program that is told to stop (SIGTERM) when the process that started it is gone.

`python -m hvt_jax.tools.attached PARENT CORES ARGUMENTS...` runs `python ARGUMENTS...` on those cores alone, such as
`0,1`, or on all for `-`. Elsewhere than on Linux it only runs it. Both, what the system does at the end of a parent
and the cores, stay with a process that becomes another program.
"""

import ctypes
import os
import signal
import sys

_SIGNAL_AT_END_OF_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> None:
    """Set both, and become the program."""
    parent, cores, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_AT_END_OF_PARENT, signal.SIGTERM)
        if cores != "-":
            os.sched_setaffinity(0, map(int, cores.split(",")))
    if os.getppid() != int(parent):  # it was gone before
        sys.exit(f"the process {parent} that started this one is gone")
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
