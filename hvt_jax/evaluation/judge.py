"""How good the frozen features of every level are: weighted kNN on every label set of the data."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import numpy as np

from hvt_jax.evaluation import features, knn
from hvt_jax.hierarchy import LEVELS
from hvt_jax.settings import EvaluationSettings

Scores = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split to judge with.

    Attributes:
      labels: int [videos] per label set, the one judged first in front.
      num_classes: by label set.
      batches: returns this process's share of all batches, from the start.
      on_batch: called with each share, e.g. to report damaged videos.
    """

    labels: dict[str, np.ndarray]
    num_classes: dict[str, int]
    batches: Callable[[], Iterable[dict[str, np.ndarray]]]
    on_batch: Callable[[dict[str, np.ndarray]], object]


def judge_levels(
    encode: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    to_devices: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    train: Split,
    test: Split,
    settings: EvaluationSettings,
) -> Scores:
    """Return {level: {label set: {"top1", "top5", "chance", "standard_error"}}}, in %.

    The gallery is the training split, the queries are the test split, with one central clip per video.
    Empty if one of the splits has no video that can be read.
    """
    found = [
        features.extract_features(encode, split.batches(), to_devices, on_batch=split.on_batch)
        for split in (train, test)
    ]
    (train_features, train_index), (test_features, test_index) = found
    if not len(train_index) or not len(test_index):
        return {}
    scores = {}
    for level in (name for name in LEVELS if name in train_features):
        scores[level] = knn.knn_label_sets(
            train_features[level],
            {name: labels[train_index] for name, labels in train.labels.items()},
            test_features[level],
            {name: labels[test_index] for name, labels in test.labels.items()},
            neighbours=settings.neighbours,
            temperature=settings.temperature,
            num_classes=test.num_classes,
        )
    return scores


def flatten_scores(scores: Scores) -> dict[str, float]:
    """Return `knn/<level>/top1` for the first label set and `knn/<level>/<set>/top1` for the others."""
    flat = {}
    for level, sets in scores.items():
        for number, (name, values) in enumerate(sets.items()):
            middle = "" if number == 0 else f"/{name}"
            flat |= {f"knn/{level}{middle}/{top}": values[top] for top in ("top1", "top5")}
    return flat


def with_untrained(scores: Scores, untrained: dict[str, float] | None) -> Scores:
    """Return `scores` with "untrained_top1" from the flat metrics of step 0, where they are known."""
    merged: Scores = {}
    for level, sets in scores.items():
        merged[level] = {}
        for number, (name, values) in enumerate(sets.items()):
            key = f"knn/{level}/top1" if number == 0 else f"knn/{level}/{name}/top1"
            before = {"untrained_top1": untrained[key]} if untrained and key in untrained else {}
            merged[level][name] = {**values, **before}
    return merged
