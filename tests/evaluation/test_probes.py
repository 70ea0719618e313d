"""Probes: what the closed form gives, and what each of them can and cannot read."""

import numpy as np
import pytest

from hvt_jax.evaluation import probes
from hvt_jax.evaluation.accuracy import accuracy

RANDOM = np.random.default_rng(0)


def ridge_by_hand(train, labels, test, classes, penalty):
    """Scores of one penalty, and the squared error of each training example by a fit without it."""
    targets = np.eye(classes)[labels]

    def fit(rows, wanted, asked):
        mean, mean_target = rows.mean(0), wanted.mean(0)
        rows = rows - mean
        weights = np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ (wanted - mean_target))
        return (asked - mean) @ weights + mean_target

    error = 0.0
    for left in range(len(train)):
        rest = np.arange(len(train)) != left
        error += np.square(fit(train[rest], targets[rest], train[left : left + 1]) - targets[left]).sum()
    return fit(train, targets, test), error


def test_the_linear_probe_is_the_ridge_with_the_least_error_of_examples_left_out(monkeypatch):
    """Against 40 fits for each of the penalties, in double precision; the chunks do not divide the examples."""
    monkeypatch.setattr(probes, "_CHUNK", 16)
    train, test = RANDOM.normal(size=(40, 6)), RANDOM.normal(size=(11, 6))
    labels = {"a": np.arange(40) % 3, "b": (train[:, 0] > 0).astype(int)}
    scores = probes.linear_scores(probes.prepare(train, labels, test, {"a": 3, "b": 2}, width=8))
    mean, std = train.mean(0), train.std(0)
    for name, classes in (("a", 3), ("b", 2)):
        standard = ((train - mean) / std, labels[name], (test - mean) / std, classes)
        fits = [ridge_by_hand(*standard, 40 * penalty) for penalty in probes.PENALTIES]
        expected, _ = min(fits, key=lambda fit: fit[1])
        np.testing.assert_allclose(scores[name], expected, atol=2e-4)


def rings(count):
    """Two classes, one around the other: no plane tells them apart."""
    labels = np.arange(count) % 2
    points = RANDOM.normal(size=(count, 2))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * (1 + labels[:, None]), labels


def test_an_mlp_reads_what_no_plane_separates_and_reads_it_again():
    (train, labels), (test, asked) = rings(400), rings(200)
    examples = probes.prepare(train, {"ring": labels, "none": labels[::-1] * 0}, test, {"ring": 2, "none": 3}, width=2)
    scores = probes.mlp_scores(examples, 100)
    assert accuracy(scores["ring"], asked) > 95 and scores["none"].shape == (200, 3)
    assert accuracy(probes.linear_scores(examples)["ring"], asked) < 70
    np.testing.assert_array_equal(probes.mlp_scores(examples, 100)["ring"], scores["ring"])


def test_features_are_standardised_by_the_training_split_and_padded():
    train = np.stack([np.arange(8) * 1e6 + 1e8, np.full(8, 7.0)], axis=1)
    examples = probes.prepare(train, {"a": np.arange(8) % 2}, np.array([[1e8, 9.0]]), {"a": 2}, width=4)
    assert examples.width == 2 and examples.train.shape == (8, 4)
    np.testing.assert_allclose(examples.train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(examples.train.std(0), [1, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(examples.test, [[-3.5 / np.arange(8).std(), 0, 0, 0]], atol=1e-4)


def test_nothing_to_learn_from_gives_finite_scores_and_mistakes_are_refused():
    constant = probes.prepare(np.ones((6, 3)), {"a": np.arange(6) % 3}, np.ones((2, 3)), {"a": 3}, width=3)
    np.testing.assert_allclose(probes.linear_scores(constant)["a"], 1 / 3, atol=1e-5)
    with pytest.raises(ValueError, match="0 to learn from, 2 to evaluate"):
        probes.prepare(np.ones((0, 3)), {"a": np.zeros(0, int)}, np.ones((2, 3)), {"a": 3}, width=3)
    with pytest.raises(ValueError, match="a: labels run from 0 to 5; num_classes is 3"):
        probes.prepare(np.ones((6, 3)), {"a": np.arange(6)}, np.ones((2, 3)), {"a": 3}, width=3)
