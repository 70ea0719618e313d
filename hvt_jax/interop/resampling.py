"""Learned tables at another length: rows between the old ones, by straight lines."""

import numpy as np


def resample(table: np.ndarray, length: int) -> np.ndarray:
    """Return float64 [length, D] from [N, D]: both cover one stretch, with their rows in the middle of equal parts.

    New row i lies at (i + 1/2) N / length - 1/2 of the old ones, held within the first and the last (as pixels are
    resized, without smoothing).
    """
    places = (np.arange(length) + 0.5) * len(table) / length - 0.5
    return _between(table, places)


def resample_grid(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return float64 [rows' columns', D] from [rows columns, D], both row by row; `resample` along either side."""
    width = table.shape[1]
    tall = resample(table.reshape(old[0], old[1] * width), new[0]).reshape(new[0], old[1], width)
    by_column = tall.swapaxes(0, 1).reshape(old[1], new[0] * width)
    wide = resample(by_column, new[1]).reshape(new[1], new[0], width)
    return wide.swapaxes(0, 1).reshape(new[0] * new[1], width)


def resample_distances(table: np.ndarray, length: int) -> np.ndarray:
    """Return float64 [2N'-2, D] from [2N-2, D], codes of the distances -(N-1)..-1 and 1..N-1.

    N' times cover the stretch of N, so distance d was d N / N' before; what is now nearer than 1 gets the code of 1,
    of its own side.
    """
    farthest, now = len(table) // 2, length // 2
    places = np.arange(1, now + 1) * (farthest + 1) / (now + 1) - 1
    past, future = table[:farthest][::-1], table[farthest:]
    return np.concatenate([_between(past, places)[::-1], _between(future, places)])


def _between(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return what lies at `places` of [N, D], in rows, held within 0 and N - 1."""
    places = np.clip(places, 0, len(table) - 1)
    low = np.floor(places).astype(int)
    share = (places - low)[:, None]
    values = table.astype(np.float64)
    return (1 - share) * values[low] + share * values[np.minimum(low + 1, len(table) - 1)]
