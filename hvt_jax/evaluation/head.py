"""How often the head of a model that is trained on labels is right: names of its metrics, and what a report says."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hvt_jax.evaluation.accuracy import standard_error

_PREFIX = "test/"
_QUANTITIES = ("top1", "chance", "standard_error")


def head_metrics(named: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return `test/top1`, `test/chance` and `test/standard_error` in %.

    Args:
      named: int [videos], the class that the head names for each test video.
      labels: int [videos], the true ones of the label set that it is trained on.
      num_classes: of that label set.
    """
    top1 = 100.0 * float((named == labels).mean())
    values = (top1, 100.0 / num_classes, standard_error(top1, len(labels)))
    return {_PREFIX + name: value for name, value in zip(_QUANTITIES, values, strict=True)}


def read_head(records: Sequence[Mapping]) -> dict[str, float]:
    """Return {"evaluated_step", "top1", "chance", "standard_error"} of the latest evaluation of a head; {} if none."""
    evaluated = {record["step"]: record for record in records if _PREFIX + "top1" in record}
    if not evaluated:
        return {}
    last = max(evaluated)
    return {"evaluated_step": last} | {name: evaluated[last].get(_PREFIX + name, math.nan) for name in _QUANTITIES}


def sentence(head: Mapping[str, float]) -> str:
    """Return what a report says of a head, from `read_head`."""
    beside = f"chance {head['chance']:.1f} %, standard error {head['standard_error']:.1f} %"
    return (
        f"The model's own head, trained end to end on labels, is right for {head['top1']:.1f} % of the test videos "
        f"at step {head['evaluated_step']} ({beside})."
    )
