"""Windows of videos that were decoded already, kept while there is room: small sets are decoded once."""

import numpy as np

from hvt_jax.settings import DataSettings


class WindowCache:
    """Decoded windows of one data set in one process; safe to share between threads.

    Attributes:
      lengths: frames of every video that was opened, by its number.
    """

    def __init__(self, limit_bytes: int):
        """Keep windows until their pixels take `limit_bytes`; then only those that are there already."""
        self.lengths: dict[int, int] = {}
        self._limit_bytes, self._bytes = limit_bytes, 0
        self._windows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __reduce__(self):
        return WindowCache, (self._limit_bytes,)  # a new process begins with an empty one

    def find(self, number: int, start: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (pixels uint8 [T, Y', X', 3], frames of their own bool [T]) of a window, or None."""
        return self._windows.get((number, start))

    def keep(self, number: int, start: int, pixels: np.ndarray, own: np.ndarray) -> None:
        """Keep a copy of a window if there is room."""
        if self._bytes + pixels.nbytes <= self._limit_bytes:
            self._bytes += pixels.nbytes  # threads may both add a window: what is counted is never too little
            self._windows[number, start] = pixels.copy(), own


def cache_of(caches: dict[DataSettings, WindowCache], settings: DataSettings) -> WindowCache | None:
    """Return the cache of what `settings` cut from the videos of a data set; None if nothing is kept."""
    if not settings.cache_gib:
        return None
    if settings not in caches:
        caches.setdefault(settings, WindowCache(int(settings.cache_gib * 2**30)))
    return caches[settings]
