"""Where the time of a sample goes; costs nothing worth counting while nobody watches.

Functions of the data path name their stage; the loader's doctor watches one thread that makes batches:

    read     fetch bytes, and for a video file list its packets
    decode   from bytes to pixels
    resize   convert colours, resize, crop, into the sample
    sample   choose frames and everything else that one sample needs
    collate  put samples together into a batch
"""

import collections
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

STAGES = ("read", "decode", "resize", "sample", "collate")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Stopwatch:
    """Seconds by stage, those of inner stages not counted in outer ones."""

    def __init__(self):
        """Count from nothing, in this thread only."""
        self.seconds: collections.Counter[str] = collections.Counter()
        self._inner = [0.0]
        self.thread = threading.get_ident()

    def lap(self, stage: str, function: Callable[..., _Result], *arguments, **named) -> _Result:
        """Return what `function` does, and count its time."""
        self._inner.append(0.0)
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            elapsed = time.perf_counter() - began
            self.seconds[stage] += elapsed - self._inner.pop()
            self._inner[-1] += elapsed


_watch: Stopwatch | None = None  # one for the process, so that a look at it is all that unwatched code pays


@contextlib.contextmanager
def watch() -> Iterator[Stopwatch]:
    """Watch what this thread does; other threads are not counted."""
    global _watch
    if _watch is not None:
        raise RuntimeError("the stages are being watched already; one stopwatch at a time")
    _watch = Stopwatch()
    try:
        yield _watch
    finally:
        _watch = None


def timed(stage: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Return a decorator that counts a function's time as that of `stage`."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def call(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
            watch = _watch
            if watch is None or watch.thread != threading.get_ident():
                return function(*arguments, **named)
            return watch.lap(stage, function, *arguments, **named)

        return call

    return decorate


def timed_items(stage: str, start: Callable[[], Iterator[_Item]]) -> Iterator[_Item]:
    """Return the iterator `start()`, counting the time until it is there and that of each item as that of `stage`."""
    watch = _watch
    if watch is None or watch.thread != threading.get_ident():
        return start()
    return _laps(watch, stage, start)


def _laps(watch: Stopwatch, stage: str, start: Callable[[], Iterator[_Item]]) -> Iterator[_Item]:
    items, end = watch.lap(stage, start), object()
    while (item := watch.lap(stage, next, items, end)) is not end:
        yield item
