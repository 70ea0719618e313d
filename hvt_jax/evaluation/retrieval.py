"""Retrieval: is there a training video of the same class among the k nearest of a test video?

R@k of CoCLR (Han et al., arXiv 2010.09709, section 4.2) and SVT (Ranasinghe et al., 2112.01514): test videos ask,
training videos are found, by cosine similarity of frozen features.
"""

import math

import numpy as np

from hvt_jax.evaluation.knn import Neighbours

DEPTHS = (1, 5, 10, 20)


def hits(found: Neighbours, train_labels: np.ndarray, test_labels: np.ndarray) -> dict[int, np.ndarray]:
    """Return {k: bool [num_test]} for DEPTHS: whether one of the k nearest has the class of the test video.

    Args:
      found: the nearest training videos, at least max(DEPTHS) of them, or all there are.
      train_labels: int [num_train].
      test_labels: int [num_test].
    """
    same = train_labels[found.index] == np.asarray(test_labels)[:, None]
    return {depth: same[:, :depth].any(axis=1) for depth in DEPTHS}


def class_scores(found: Neighbours, train_labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float32 [num_test, classes]: the similarity of the nearest video of each class, -2 if none was found.

    The class with the highest score is that of the nearest video, so its top-1 accuracy is R@1.

    Args:
      found: the nearest training videos.
      train_labels: int [num_train].
      num_classes: of the label set.
    """
    scores = np.full((len(found.index), num_classes), -2.0, np.float32)
    rows = np.arange(len(scores))
    for place in reversed(range(found.index.shape[1])):  # the nearest last, which overwrites what is farther
        scores[rows, train_labels[found.index[:, place]]] = found.similarity[:, place]
    return scores


def chance(train_labels: np.ndarray, test_labels: np.ndarray, depth: int) -> float:
    """Return in % how often one of `depth` random training videos has the class of a test video.

    Args:
      train_labels: int [num_train].
      test_labels: int [num_test].
      depth: k, clipped to num_train.
    """
    num_train, depth = len(train_labels), min(depth, len(train_labels))
    missed = {}
    for label, count in zip(*np.unique(train_labels, return_counts=True), strict=True):
        others = num_train - int(count)
        missed[int(label)] = 0.0 if others < depth else math.comb(others, depth) / math.comb(num_train, depth)
    return 100.0 * float(np.mean([1 - missed.get(int(label), 1.0) for label in test_labels]))
