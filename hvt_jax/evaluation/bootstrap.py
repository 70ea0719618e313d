"""How far a number would move on other test videos: percentile intervals by the bootstrap."""

import numpy as np

DRAWS, COVERAGE = 10_000, 0.95
_SEED = 0  # the same draws every time, so that the same scores give the same interval


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values` under resampling with replacement.

    Percentile method (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). A resample is drawn as
    the counts of the distinct values, which has the same distribution as drawing the values one by one, and is quick
    where they are few, such as right and wrong. Where all are equal the interval is that one number.

    Args:
      values: [num_test], one for each test video.

    Raises:
      ValueError: if there is none.
    """
    if not len(values):
        raise ValueError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    shares = counts / counts.sum()
    draws = np.random.default_rng(_SEED).multinomial(len(values), shares, size=DRAWS)
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(draws @ distinct / len(values), [tail, 100 - tail])
    return float(low), float(high)
