"""How far a mean over seeds can be trusted: its 95 % interval by Student's t, which a few seeds make wide."""

import math
import statistics
from collections.abc import Sequence

_T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}  # Student's t by freedom


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean of `values`; NaN of a single one, which says nothing."""
    if len(values) < 2:
        return math.nan
    return _T_95.get(len(values) - 1, 1.96 + 2.6 / len(values)) * statistics.stdev(values) / math.sqrt(len(values))


def mean_and_interval(values: Sequence[float], digits: int = 1) -> str:
    """Return `62.1 ± 3.0`, the mean and half the width of its 95 % interval, or of a single value `62.1`."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {half_width(values):.{digits}f}"
