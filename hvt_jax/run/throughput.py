"""How fast a run is, and how long it still takes."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator


class Throughput:
    """Clips per second over the latest steps, and the time left; pauses such as evaluations do not count."""

    def __init__(self, clips_per_step: int, total_steps: int, *, window: int = 50, clock: Callable = time.monotonic):
        """Measure over the latest `window` calls of `tick`; `clock` returns seconds."""
        self._clips_per_step, self._total_steps, self._clock = clips_per_step, total_steps, clock
        self._ticks: collections.deque[tuple[int, float]] = collections.deque(maxlen=window + 1)
        self._paused_seconds = 0.0

    def tick(self, step: int) -> None:
        """Note that `step` is done now; steps may be skipped, but go up."""
        self._ticks.append((step, self._clock() - self._paused_seconds))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the speed and of the time left."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused_seconds += self._clock() - start

    @property
    def clips_per_second(self) -> float | None:
        """Speed over the window, or None before the second `tick`."""
        if len(self._ticks) < 2:
            return None
        (first, start), (last, now) = self._ticks[0], self._ticks[-1]
        return (last - first) * self._clips_per_step / max(now - start, 1e-9)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of training left at this speed, or None before the second `tick`."""
        speed = self.clips_per_second
        return (self._total_steps - self._ticks[-1][0]) * self._clips_per_step / speed if speed else None
