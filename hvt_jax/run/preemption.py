"""Notice of preemption: SIGTERM and SIGUSR1 ask the loop to save and stop, at the same place everywhere."""

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

    Ask `requested()` at every step, and within what takes long; when it is true save, wait for the save, and exit with
    `EXIT_CODE`.
    After the first SIGTERM a second one ends the process at once. Enter it in the main thread and after
    `jax.distributed.initialize()`; in another thread Python takes no handlers, and nothing is installed.

    With several processes SIGTERM stays with JAX's own service, which was installed by `initialize` and carries
    the notice to all processes; SIGUSR1 is passed on to it. All then see `requested` at the same, later call.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._before: dict[int, Any] = {}
        self._shared = self._agreed = False
        self._calls = 0

    def __enter__(self) -> "Preemption":
        self._noticed = self._agreed = False
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

    def requested(self) -> bool:
        """Return whether to save and stop; once true it stays so.

        With several processes all must make the same calls in the same order: they agree on the number of a call.
        """
        if not self._shared:
            return self._noticed
        if not self._agreed:  # the service says yes once only
            self._calls += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._agreed

    def _notice(self, number: int, _: FrameType | None) -> None:
        # Only flags here: a handler runs between any two lines of the loop, perhaps inside JAX or a lock.
        self._noticed = True
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
        elif number == signal.SIGTERM:
            # The system's own action needs no Python, so it works even while the main thread compiles.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
