"""kNN: the original's numbers, votes computed by hand, chunks that change nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.evaluation import accuracy, knn
from tests import golden_files

INPUTS = [f"{split}_{kind}" for split in ("train", "test") for kind in ("features", "labels")]


def _scores() -> list:
    """Return (file, key) of every stored score: all that a file holds besides features and labels."""
    found = []
    for path in golden_files.of_kind("knn"):
        with np.load(path) as golden:
            keys = [key for key in golden.files if key not in INPUTS]
        found += [pytest.param(path, key, id=f"{golden_files.label(path)}-{key}") for key in keys]
    return found


@pytest.mark.parametrize(("path", "key"), _scores())
def test_parity_with_the_original(path, key):
    neighbours, temperature = (kind(part) for kind, part in zip((int, float), key[1:].split("_T"), strict=True))
    with np.load(path) as golden:
        train_features, train_labels, test_features, test_labels = (golden[name] for name in INPUTS)
        top1, top5 = golden[key]
    found = knn.find_neighbours(train_features, test_features, neighbours)
    votes = knn.knn_votes(found, train_labels, temperature=temperature, num_classes=10)
    assert accuracy.accuracy(votes, test_labels) == pytest.approx(top1, abs=1e-9)
    if neighbours >= 20:  # below, the original's top-5 depends on how torch sorts classes without votes
        assert accuracy.accuracy(votes, test_labels, 5) == pytest.approx(top5, abs=1e-9)


def test_votes_by_hand():
    """One neighbour at cosine 1 against two at 0.8: the near one wins at a low temperature, the two at a high one."""
    train = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6], [-1, 0]])
    labels = np.array([0, 1, 1, 2])
    found = knn.find_neighbours(train, np.array([[2.0, 0.0]]), 3)
    np.testing.assert_allclose(found.similarity, [[1, 0.8, 0.8]], atol=1e-6)
    assert found.index[0, 0] == 0 and set(found.index[0, 1:]) == {1, 2}
    cold = knn.knn_votes(found, labels, temperature=0.1, num_classes=3)
    warm = knn.knn_votes(found, labels, temperature=1.0, num_classes=3)
    np.testing.assert_allclose(cold, [[1, 2 * np.exp(-2), 0]], rtol=1e-5)
    np.testing.assert_allclose(warm, [[1, 2 * np.exp(-0.2), 0]], rtol=1e-5)


def test_scale_of_features_does_not_matter_and_zeros_do_no_harm():
    random = np.random.default_rng(0)
    train, test = random.normal(size=(50, 8)), random.normal(size=(20, 8))
    train[0], test[0] = 0, 0
    found = knn.find_neighbours(train, test, 7)
    scaled = knn.find_neighbours(train * random.uniform(0.1, 10, (50, 1)), test * 100, 7)
    assert np.isfinite(found.similarity).all()
    np.testing.assert_array_equal(found.index[1:], scaled.index[1:])


def test_similarities_of_low_precision_features_are_float32():
    train = np.random.default_rng(1).normal(size=(30, 8))
    found = knn.find_neighbours(jnp.asarray(train, jnp.bfloat16), jnp.asarray(train, jnp.bfloat16), 1)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(30))
    np.testing.assert_allclose(found.similarity, 1, atol=1e-6)


def test_chunks_and_their_padding_change_nothing(monkeypatch):
    random = np.random.default_rng(2)
    train, test = random.normal(size=(40, 6)), random.normal(size=(23, 6))
    whole = knn.find_neighbours(train, test, 5)
    monkeypatch.setattr(knn, "_MAX_CHUNK", 8)
    compiled = knn._search._cache_size()
    chunked = knn.find_neighbours(train, test, 5)
    assert knn._search._cache_size() == compiled + 1  # 8, 8 and 7 padded to 8: one shape
    assert chunked.index.shape == (23, 5)
    np.testing.assert_array_equal(whole.index, chunked.index)
    np.testing.assert_allclose(whole.similarity, chunked.similarity, atol=1e-6)


def test_more_neighbours_than_examples_means_all():
    found = knn.find_neighbours(np.eye(3), np.eye(3), 20)
    assert found.index.shape == (3, 3)


@pytest.mark.parametrize(
    ("train", "test", "neighbours", "words"),
    [
        (np.zeros((3, 4)), np.zeros((2, 5)), 1, r"\(3, 4\) and \(2, 5\)"),
        (np.zeros((0, 4)), np.zeros((2, 4)), 1, "0 to learn from, 2 to evaluate"),
        (np.zeros((3, 4)), np.zeros((2, 4)), 0, "k = 0"),
    ],
)
def test_impossible_input_is_refused_with_its_numbers(train, test, neighbours, words):
    with pytest.raises(ValueError, match=words):
        knn.find_neighbours(train, test, neighbours)


def test_labels_outside_the_classes_are_refused():
    found = knn.find_neighbours(np.eye(3), np.eye(3), 1)
    with pytest.raises(ValueError, match="from 0 to 5; num_classes is 3"):
        knn.knn_votes(found, np.array([0, 1, 5]), temperature=1.0, num_classes=3)


def _votes_on_the_host(found, labels, temperature, num_classes):
    """The same, in numpy and one neighbour after the other."""
    weights = np.exp((found.similarity - found.similarity[:, :1]) / temperature)
    votes = np.zeros((len(weights), num_classes), np.float32)
    np.add.at(votes, (np.arange(len(votes))[:, None], labels[found.index]), weights)
    return votes


@pytest.mark.parametrize(("num_test", "neighbours", "num_classes"), [(23, 20, 9), (1, 3, 2), (1030, 7, 40)])
def test_votes_on_the_device_are_those_on_the_host(num_test, neighbours, num_classes):
    """Few different similarities, so that many classes have the same votes; then the lower number comes first."""
    random = np.random.default_rng(4)
    similarity = -np.sort(-random.choice(np.float32([0.2, 0.5, 0.9]), (num_test, neighbours)), axis=1)
    found = knn.Neighbours(similarity, random.integers(0, 60, (num_test, neighbours), dtype=np.int32))
    labels = random.integers(0, num_classes, 60)
    votes = knn.knn_votes(found, labels, temperature=0.1, num_classes=num_classes)
    expected = _votes_on_the_host(found, labels, 0.1, num_classes)
    np.testing.assert_allclose(votes, expected, rtol=1e-5)
    np.testing.assert_array_equal(votes.argsort(1, stable=True), expected.argsort(1, stable=True))


def test_votes_are_counted_in_chunks_of_one_shape(monkeypatch):
    random = np.random.default_rng(5)
    found = knn.find_neighbours(random.normal(size=(40, 6)), random.normal(size=(23, 6)), 5)
    options = {"temperature": 0.07, "num_classes": 6}
    labels = np.arange(40) % 6
    whole = knn.knn_votes(found, labels, **options)
    monkeypatch.setattr(knn, "_MAX_CHUNK", 8)
    compiled = knn._vote._cache_size()
    np.testing.assert_array_equal(knn.knn_votes(found, labels, **options), whole)
    assert knn._vote._cache_size() == compiled + 1
