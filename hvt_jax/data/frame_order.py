"""Frames are read in rising order, whatever the order they are asked for in."""

import numpy as np


def plan_reading(
    numbers: np.ndarray, height: int, width: int, out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return what to read, rising; where each of `numbers` is among it, None if in place; and room to decode into."""
    if (numbers[1:] > numbers[:-1]).all():  # nearly always; then they go to where they belong without a copy
        return numbers, None, np.empty((len(numbers), height, width, 3), np.uint8) if out is None else out
    wanted, positions = np.unique(numbers, return_inverse=True)
    return wanted, positions, np.empty((len(wanted), height, width, 3), np.uint8)


def finish_reading(frames: np.ndarray, positions: np.ndarray | None, out: np.ndarray | None) -> np.ndarray:
    """Return the frames in the order asked for, in `out` if given; the counterpart of `plan_reading`."""
    return frames if positions is None else np.take(frames, positions, axis=0, out=out)
