"""What is reported of the scores that a protocol gives to every class of every test video."""

import math
from typing import Any

import numpy as np

from hvt_jax.evaluation import bootstrap
from hvt_jax.evaluation.accuracy import accuracy, within_pairs

Measures = dict[str, Any]


def measure(scores: np.ndarray, labels: np.ndarray, partners: np.ndarray | None = None) -> Measures:
    """Return "top1", "top5", "interval" (95 %, of top1), "chance" and "num_test"; accuracies in %.

    Where classes are in pairs, such as a motion and its reverse, "within_pairs" and "within_pairs_interval", too.

    Args:
      scores: [num_test, classes]; a higher one is a better one.
      labels: int [num_test].
      partners: of `accuracy.within_pairs`, None without pairs.
    """
    found: Measures = {
        "top1": accuracy(scores, labels),
        "top5": accuracy(scores, labels, 5),
        "interval": bootstrap.interval(100.0 * is_right(scores, labels)),
        "chance": 100.0 / scores.shape[1],
        "num_test": len(labels),
    }
    within = None if partners is None else within_pairs(scores, labels, partners)
    if within is not None:
        rows = np.flatnonzero(partners[labels] >= 0)
        own, other = scores[rows, labels[rows]], scores[rows, partners[labels[rows]]]
        found["within_pairs"] = within
        found["within_pairs_interval"] = bootstrap.interval(100.0 * ((own > other) + 0.5 * (own == other)))
    return found


def compare(scores: np.ndarray, untrained: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval, in points, of trained minus untrained top-1 accuracy on the same videos.

    Args:
      scores: [num_test, classes] from the trained network.
      untrained: the same from the untrained one.
      labels: int [num_test].
    """
    return bootstrap.interval(100.0 * (is_right(scores, labels).astype(float) - is_right(untrained, labels)))


def is_right(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return bool [num_test]: whether the true class has the highest score, see `accuracy.accuracy`."""
    return (named_classes(scores) == labels) & ~np.isnan(scores).any(axis=1)


def named_classes(scores: np.ndarray) -> np.ndarray:
    """Return the class with the highest score, int [num_test]; of equal ones that of the lower number."""
    return np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many test videos of class [row] are named class [column], int [classes, classes]."""
    num_classes = scores.shape[1]
    cells = np.asarray(labels, np.int64) * num_classes + named_classes(scores)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(counts: np.ndarray) -> list[float | None]:
    """Return the share of every class's test videos that are named right, in %; None for a class without any.

    Args:
      counts: from `confusion`.
    """
    diagonal, totals = counts.diagonal().tolist(), counts.sum(axis=1).tolist()
    return [100.0 * right / total if total else None for right, total in zip(diagonal, totals, strict=True)]


def average_views(scores: np.ndarray) -> np.ndarray:
    """Return log probabilities [num_test, classes]: the mean over views of the probabilities that logits stand for.

    Args:
      scores: logits [num_test, views, classes].
    """
    top = scores.max(axis=2, keepdims=True)
    log_probs = scores - top - np.log(np.exp(scores - top).sum(axis=2, keepdims=True))
    best = log_probs.max(axis=1, keepdims=True)
    return (best + np.log(np.exp(log_probs - best).sum(axis=1, keepdims=True)))[:, 0] - math.log(scores.shape[1])
