"""Weighted nearest neighbours on frozen features, on the device.

The protocol of DINO (arXiv 2104.14294) and SVT (2112.01514), which the original uses too: the k most
similar training features vote for their label with weight exp(cosine similarity / temperature).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK_ELEMENTS = 2**25  # similarities held at once: 128 MiB of float32
_MAX_CHUNK = 1024  # queries per chunk for a small training set


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training examples most similar to each test example, most similar first.

    Attributes:
      similarity: float32 [num_test, k], cosine in -1 to 1.
      index: int32 [num_test, k], rows of the training features.
    """

    similarity: np.ndarray
    index: np.ndarray


def find_neighbours(train_features: np.ndarray, test_features: np.ndarray, neighbours: int) -> Neighbours:
    """Search once; any number of label sets can then be evaluated with `knn_votes`.

    The queries go through in chunks of one static shape (one compilation). Similarities are float32 at full
    precision, whatever the features' dtype, because rounded ones would change the order of the neighbours.

    Args:
      train_features: [num_train, D], any scale; L2-normalised here.
      test_features: [num_test, D].
      neighbours: k, clipped to num_train.

    Raises:
      ValueError: if a set is empty or the widths differ.
    """
    train_features, test_features = np.asarray(train_features), np.asarray(test_features)
    if not (train_features.ndim == test_features.ndim == 2 and train_features.shape[1] == test_features.shape[1]):
        raise ValueError(f"features are {train_features.shape} and {test_features.shape}; both must be [examples, D]")
    num_train, num_test = len(train_features), len(test_features)
    if not num_train or not num_test or neighbours < 1:
        raise ValueError(f"kNN needs examples: {num_train} to learn from, {num_test} to evaluate, k = {neighbours}")
    train_ND = _unit_rows(jnp.asarray(train_features, jnp.float32))

    def search(queries_QD: np.ndarray) -> tuple[jax.Array, jax.Array]:
        return _search(train_ND, jnp.asarray(queries_QD, jnp.float32), min(neighbours, num_train))

    return Neighbours(*_in_chunks(search, (test_features,), num_train))


def knn_votes(found: Neighbours, train_labels: np.ndarray, *, temperature: float, num_classes: int) -> np.ndarray:
    """Return float32 [num_test, num_classes]: the votes of each class over that of the nearest neighbour alone.

    Args:
      found: from `find_neighbours`.
      train_labels: int [num_train], 0 to num_classes - 1, of one label set.
      temperature: of the weights exp(similarity / temperature).
      num_classes: of this label set.

    Raises:
      ValueError: if a label is outside the classes.
    """
    train_labels = np.asarray(train_labels)
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise ValueError(
            f"training labels run from {train_labels.min()} to {train_labels.max()}; num_classes is {num_classes}"
        )
    labels_N = jnp.asarray(train_labels, jnp.int32)

    def vote(similarity_QK: np.ndarray, index_QK: np.ndarray) -> tuple[jax.Array]:
        return (_vote(labels_N, similarity_QK, index_QK, temperature, num_classes),)

    return _in_chunks(vote, (found.similarity, found.index), num_classes)[0]


def _in_chunks(
    function: Callable[..., tuple[jax.Array, ...]], rows: tuple[np.ndarray, ...], elements_per_row: int
) -> tuple[np.ndarray, ...]:
    """Return `function(*rows)` for arrays [num_test, ...], called with chunks of them of one shape.

    Args:
      function: compiled; returns arrays [Q, ...] for arrays [Q, ...], row by row.
      rows: what it is called with; the last chunk is padded with zeros, and the padding of its results dropped.
      elements_per_row: what the device holds at once for each row.
    """
    num_test = len(rows[0])
    chunk = max(1, min(_MAX_CHUNK, _CHUNK_ELEMENTS // elements_per_row, num_test))
    parts = []
    for start in range(0, num_test, chunk):
        some = [array[start : start + chunk] for array in rows]
        missing = chunk - len(some[0])
        some = [np.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1))) for array in some]
        parts.append([np.asarray(result)[: chunk - missing] for result in function(*some)])
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _unit_rows(features: jax.Array) -> jax.Array:
    """Return rows of length 1; a row of zeros stays zero."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames="neighbours")
def _search(train_ND: jax.Array, queries_QD: jax.Array, neighbours: int) -> tuple[jax.Array, jax.Array]:
    similarity_QN = jnp.matmul(_unit_rows(queries_QD), train_ND.T, precision="highest")
    return jax.lax.top_k(similarity_QN, neighbours)


@functools.partial(jax.jit, static_argnames="num_classes")
def _vote(
    labels_N: jax.Array, similarity_QK: jax.Array, index_QK: jax.Array, temperature: float, num_classes: int
) -> jax.Array:
    # Only ratios of the votes matter; taking off the best similarity keeps exp finite at any temperature.
    weights_QK = jnp.exp((similarity_QK - similarity_QK[:, :1]) / temperature)

    def add(votes_QC: jax.Array, vote: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        label_Q, weight_Q = vote
        return votes_QC + jnp.where(label_Q[:, None] == jnp.arange(num_classes), weight_Q[:, None], 0), None

    # One neighbour after the other: sums in the order of the neighbours, on any device, keep equal votes equal.
    none_QC = jnp.zeros((len(index_QK), num_classes), jnp.float32)
    return jax.lax.scan(add, none_QC, (labels_N[index_QK].T, weights_QK.T))[0]
