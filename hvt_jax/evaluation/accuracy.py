"""How right a protocol's scores are: accuracies, their error, and accuracy within pairs of classes.

Every protocol (neighbours, linear and MLP probe) gives a score to each class of each test video; a higher one is
a better one, and their scale means nothing here.
"""

import math

import numpy as np

STANDARD_ERRORS = 2.0  # a difference smaller than this many standard errors is none


def accuracy(scores: np.ndarray, labels: np.ndarray, best: int = 1) -> float:
    """Return in % how often the true class is among the `best` with the highest scores.

    Of classes with equal scores the one of the lower number comes first. A video with a NaN among its scores counts
    as wrong.

    Args:
      scores: float [num_test, classes].
      labels: int [num_test], 0 to classes - 1.
      best: how many classes are looked at; as many as there are, if that is less, always hold the true one.
    """
    labels = np.asarray(labels)[:, None]
    own = np.take_along_axis(scores, labels, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels))
    hits = (before.sum(axis=1) < best) & ~np.isnan(scores).any(axis=1)
    return 100.0 * hits.sum().item() / len(hits)


def standard_error(accuracy: float, num_test: int) -> float:
    """Return the standard error, in points, of an accuracy in % on `num_test` examples.

    Two successes and two failures are added (Agresti and Coull 1998): the plain formula says 0 for an
    accuracy of 0 or 100 %, however few the examples.
    """
    share = (accuracy / 100 * num_test + 2) / (num_test + 4)
    return 100 * math.sqrt(share * (1 - share) / (num_test + 4))


def within_pairs(scores: np.ndarray, labels: np.ndarray, partners: np.ndarray) -> float | None:
    """Return in % how often the true class scores above its partner; equal scores count half. Chance is 50.

    What the members of a pair have in common, such as the appearance of a motion and of its reverse, cannot help.

    Args:
      scores: float [num_test, classes].
      labels: int [num_test].
      partners: int [classes], the other class of its pair, -1 for a class in no pair.

    Returns:
      None if no test video is of a class in a pair.
    """
    labels = np.asarray(labels)
    rows = np.flatnonzero(partners[labels] >= 0)
    if not len(rows):
        return None
    own, other = scores[rows, labels[rows]], scores[rows, partners[labels[rows]]]
    return 100.0 * ((own > other).sum() + 0.5 * (own == other).sum()).item() / len(rows)
