"""Run a function over many items in child processes, so that an item which hangs, crashes or eats memory costs itself.

A child that breaks a limit is killed and replaced; the others do not notice. The standard library's pools cannot do
this: one segmentation fault ends `concurrent.futures`, and `multiprocessing.Pool.map` waits for it for ever.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hvt_jax.data import parallel
from hvt_jax.settings.reader import SettingsError

Renew = Callable[[], None]  # begins the time limit of an item anew

_START_SECONDS = 60.0  # in which a new child must have imported what it needs
_GRACE_SECONDS = 2.0  # left to a child to notice by itself that its time is over
_RENEWED, _DONE, _FAILED = range(3)


@dataclasses.dataclass(frozen=True)
class Lost:
    """Why an item has no result.

    Attributes:
      timed_out: whether its time was over; else it crashed, or the function raised.
      reason: one line.
    """

    timed_out: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an item may cost.

    Attributes:
      seconds: between two calls of `renew`, the first of which is made when the item begins.
      memory_bytes: address space of a child; not enforced where the system has no such limit.
    """

    seconds: float
    memory_bytes: int


def run(
    function: Callable[[Any, Renew], Any], items: Iterable[Any], *, workers: int, limits: Limits
) -> Iterator[tuple[int, Any]]:
    """Yield (position, result or `Lost`) for every item, in the order in which they are done.

    Args:
      function: called in a child as `function(item, renew)`; must be importable by name.
      items: what to call it with; taken one by one.
      workers: how many children.
      limits: what an item may cost.
    """
    waiting = enumerate(items)
    children: list[_Child] = []
    try:
        while True:
            for child in children:
                if child.position is None and (task := next(waiting, None)) is not None:
                    child.give(*task)
            while len(children) < workers and (task := next(waiting, None)) is not None:
                children.append(_Child(function, limits))
                children[-1].give(*task)
            busy = [child for child in children if child.position is not None]
            if not busy:
                return
            seconds = min(child.deadline for child in busy) - time.monotonic()
            ready = multiprocessing.connection.wait([child.pipe for child in busy], max(0.0, seconds))
            for child in busy:
                position = child.position
                outcome = child.look(child.pipe in ready)
                if outcome is not None:
                    yield position, outcome[0]
            children = [child for child in children if not child.is_dead]
    finally:
        for child in children:
            child.kill()


class _Child:
    """A process, the item it is at and until when."""

    def __init__(self, function: Callable, limits: Limits):
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, limits.memory_bytes), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.position: int | None = None
        self.deadline = 0.0
        self.is_dead = False
        self._seconds = limits.seconds + _GRACE_SECONDS

    def give(self, position: int, item: Any) -> None:
        """Begin an item."""
        self.position, self.deadline = position, time.monotonic() + self._seconds + _START_SECONDS
        with contextlib.suppress(OSError):  # it has just died, which `look` will see
            self.pipe.send(item)

    def look(self, has_message: bool) -> tuple[Any] | None:
        """Return (result or Lost,) if the item has ended, and None if it goes on."""
        if has_message:
            try:
                kind, value = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(_GRACE_SECONDS)
                return self._lose(Lost(False, _how_it_ended(self.process.exitcode)))
            self.deadline = time.monotonic() + self._seconds
            if kind == _RENEWED:
                return None
            self.position = None
            return (value if kind == _DONE else Lost(False, value),)
        if time.monotonic() > self.deadline:
            return self._lose(Lost(True, f"gave no sign of life for {self._seconds:.0f} s and was killed"))
        return None

    def _lose(self, lost: Lost) -> tuple[Lost]:
        self.kill()
        return (lost,)

    def kill(self) -> None:
        """End the process at once."""
        self.is_dead = True
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait; processes started meanwhile inherit it: it is for the one that ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process ended with code {code}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"


def _serve(pipe, function: Callable[[Any, Renew], Any], memory_bytes: int) -> None:
    """Work on items until the parent is gone."""
    parallel.prepare_worker(0, 1)
    _limit_memory(memory_bytes)

    def renew() -> None:
        pipe.send((_RENEWED, None))

    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        renew()
        try:
            outcome = _DONE, function(item, renew)
        except Exception as error:  # an item must not cost the child
            kind = "" if isinstance(error, SettingsError) else type(error).__name__  # those are sentences for users
            outcome = _FAILED, f"{kind} {error}".replace("\n", " ").strip()
        pipe.send(outcome)


def _limit_memory(size: int) -> None:
    try:
        import resource

        _, hardest = resource.getrlimit(resource.RLIMIT_AS)
        size = size if hardest == resource.RLIM_INFINITY else min(size, hardest)
        resource.setrlimit(resource.RLIMIT_AS, (size, hardest))
    except (ImportError, ValueError, OSError):  # Windows has none, macOS refuses it
        return
