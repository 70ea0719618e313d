"""Accuracies and their errors, by hand."""

import numpy as np
import pytest

from hvt_jax.evaluation import accuracy

SCORES = np.array([[3, 2, 1], [1, 3, 2], [2, 2, 0], [np.nan, 1, 0]], np.float32)


def test_top_1_and_top_2():
    labels = np.array([0, 2, 1, 1])  # first; second; second of two equal ones; not a number
    assert accuracy.accuracy(SCORES, labels) == 25.0
    assert accuracy.accuracy(SCORES, labels, 2) == 75.0
    assert accuracy.accuracy(SCORES[:3], labels[:3], 5) == 100.0


def test_standard_error():
    assert accuracy.standard_error(50.0, 96) == pytest.approx(5.0)  # (48 + 2) of 100
    assert accuracy.standard_error(100.0, 12) == pytest.approx(100 * (0.875 * 0.125 / 16) ** 0.5)  # 14 of 16, not 0


def test_within_pairs_asks_for_the_partner_alone():
    partners = np.array([1, 0, -1])
    # Right; right, although another class won; equal scores; of no pair.
    assert accuracy.within_pairs(SCORES[[0, 1, 2, 0]], np.array([0, 1, 0, 2]), partners) == pytest.approx(250 / 3)
    assert accuracy.within_pairs(SCORES, np.array([2, 2, 2, 2]), partners) is None
    assert accuracy.within_pairs(SCORES[:1], np.array([1]), partners) == 0.0
    assert accuracy.within_pairs(SCORES[3:], np.array([0]), partners) == 0.0  # NaN is above nothing
