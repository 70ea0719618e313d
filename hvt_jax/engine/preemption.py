"""Notice of preemption: SIGTERM and SIGUSR1 ask the loop to save and stop, at the same step everywhere."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143


class Preemption:
    """Context in which SIGTERM and SIGUSR1 set a flag instead of ending the process.

    Ask `requested(step)` once per step; when it is true save, wait for the save, and exit with `EXIT_CODE`.
    After the first SIGTERM a second one ends the process at once. Enter it in the main thread and after
    `jax.distributed.initialize()`; in another thread Python takes no handlers, and nothing is installed.

    With several processes SIGTERM stays with JAX's own service, which was installed by `initialize` and carries
    the notice to all processes; SIGUSR1 is passed on to it. All then see `requested` at the same, later step.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._before: dict[int, Any] = {}
        self._shared = False

    def __enter__(self) -> "Preemption":
        self._noticed = False
        self._shared = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            signals = (signal.SIGUSR1,) if self._shared else (signal.SIGTERM, signal.SIGUSR1)
            self._before = {number: signal.signal(number, self._notice) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: set by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def requested(self, step: int) -> bool:
        """Return whether to save and stop after `step`; with several processes all must ask at every step.

        Args:
          step: number of updates done, going up by 1 from call to call.
        """
        if self._shared:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noticed

    def _notice(self, number: int, _: FrameType | None) -> None:
        # Only flags here: a handler runs between any two lines of the loop, perhaps inside JAX or a lock.
        self._noticed = True
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
        elif number == signal.SIGTERM:
            # The system's own action needs no Python, so it works even while the main thread compiles.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
