"""Retrieval by hand: hits, class scores, and what chance would find."""

import itertools

import numpy as np
import pytest

from hvt_jax.evaluation import knn, retrieval

LEARNED = np.array([0, 0, 1, 1, 1, 2])
FOUND = knn.Neighbours(np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]), np.array([[2, 0, 3], [5, 3, 2]]))


def test_hits_and_class_scores():
    hits = retrieval.hits(FOUND, LEARNED, np.array([0, 2]))
    assert {depth: hit.tolist() for depth, hit in hits.items()} == {
        1: [False, True],
        5: [True, True],
        10: [True, True],
        20: [True, True],
    }
    scores = retrieval.class_scores(FOUND, LEARNED, 4)
    np.testing.assert_allclose(scores, [[0.8, 0.9, -2, -2], [-2, 0.5, 0.6, -2]])


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_chance_is_what_random_training_videos_would_give(depth):
    asked = np.array([0, 1, 2, 3])
    draws = list(itertools.combinations(LEARNED, min(depth, 6)))
    expected = 100 * np.mean([[label in draw for label in asked] for draw in draws])
    assert retrieval.chance(LEARNED, asked, depth) == pytest.approx(expected)
