"""What a trained probe reads from frozen features, on the device: a linear one in closed form, and a small MLP.

Nearest neighbours alone can mislead: a level may have gathered its classes and lost what tells them apart. The
linear probe asks whether the classes lie on their own sides of planes, the MLP whether they can be told apart at all.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hvt_jax.engine.compilation import quick_compiler_options
from hvt_jax.nn.activation import gelu

# Of the ridge, in units of the number of training examples, so that they mean the same for any data set.
PENALTIES = tuple(10.0 ** (half / 2) for half in range(-8, 5))
HIDDEN, BATCH, PEAK_RATE, WEIGHT_DECAY = 256, 512, 3e-3, 0.1  # of the MLP
_CHUNK = 8192  # rows that the ridge holds rotated at once
_SMALLEST_SHARE = 1e-6  # of a feature's size: a spread below it is rounding
_KEY = 0  # the same network and the same batches in every evaluation

_matmul = functools.partial(jnp.matmul, precision="highest")


class Examples(NamedTuple):
    """Standardised features of one level and the labels of all label sets, for `linear_scores` and `mlp_scores`.

    Attributes:
      train: float32 [N, W] on the device; zeros from the level's own width on.
      test: float32 [M, W], by mean and deviation of the training features, too.
      labels: int32 [N, label sets].
      width: D, the level's own width.
      num_classes: {label set: classes}, in the order of `labels`.
    """

    train: jax.Array
    test: jax.Array
    labels: jax.Array
    width: int
    num_classes: dict[str, int]


def prepare(
    train_features: np.ndarray,
    train_labels: Mapping[str, np.ndarray],
    test_features: np.ndarray,
    num_classes: Mapping[str, int],
    *,
    width: int,
) -> Examples:
    """Standardise features by the training split and place them on the device.

    A feature that is the same in all training videos becomes 0 everywhere.

    Args:
      train_features: [N, D], any scale, on the host.
      train_labels: int [N] by label set, 0 to classes - 1.
      test_features: [M, D].
      num_classes: classes by label set.
      width: W, at least D, the same for all levels, so that they share what is compiled.

    Raises:
      ValueError: if a split is empty or a label is outside its classes.
    """
    if not len(train_features) or not len(test_features):
        raise ValueError(
            f"a probe needs examples: {len(train_features)} to learn from, {len(test_features)} to evaluate"
        )
    for name, labels in train_labels.items():
        if labels.min() < 0 or labels.max() >= num_classes[name]:
            raise ValueError(
                f"{name}: labels run from {labels.min()} to {labels.max()}; num_classes is {num_classes[name]}"
            )
    mean = train_features.mean(axis=0, dtype=np.float64)
    squares = np.zeros(len(mean))
    for start in range(0, len(train_features), _CHUNK):
        squares += np.square(train_features[start : start + _CHUNK] - mean).sum(axis=0)
    std = np.sqrt(squares / len(train_features))
    varies = ~(std <= _SMALLEST_SHARE * np.maximum(np.abs(mean), 1e-30))  # NaN stays, to be seen in the scores
    scale = np.where(varies, 1 / np.where(varies, std, 1), 0)

    def place(features: np.ndarray) -> jax.Array:
        padded = np.zeros((len(features), width), np.float32)
        padded[:, : len(mean)] = (features - mean.astype(np.float32)) * scale.astype(np.float32)
        return jnp.asarray(padded)

    labels = np.stack([train_labels[name] for name in num_classes], axis=1).astype(np.int32)
    return Examples(place(train_features), place(test_features), jnp.asarray(labels), len(mean), dict(num_classes))


def linear_scores(examples: Examples) -> dict[str, np.ndarray]:
    """Return float32 [M, classes] by label set: ridge regression of one-hot targets, in closed form.

    The intercept is not penalised. Of PENALTIES each label set has the one with the least squared error of the
    training examples, each left out in turn (the last one if none is finite); one eigendecomposition of the
    [D, D] matrix gives all of them. Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning,
    7.10 and 3.4.1.
    """
    counts = tuple(examples.num_classes.values())
    num_train = len(examples.train)
    chunk = min(_CHUNK, num_train)
    missing = -num_train % chunk
    train, labels = (jnp.pad(array, ((0, missing), (0, 0))) for array in (examples.train, examples.labels))
    keep = jnp.arange(num_train + missing) < num_train
    cut = lambda array: array.reshape(-1, chunk, *array.shape[1:])  # noqa: E731
    scores = np.asarray(_compiled(_ridge)((cut(train), cut(labels), cut(keep)), examples.test, counts))
    ends = np.cumsum(counts)[:-1]
    return dict(zip(examples.num_classes, np.split(scores, ends, axis=1), strict=True))


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Return a function compiled; made late, because it asks for the backend."""
    static = [name for name in ("counts", "steps") if name in inspect.signature(function).parameters]
    return jax.jit(function, static_argnames=static, compiler_options=quick_compiler_options())


def _ridge(chunks: tuple[jax.Array, jax.Array, jax.Array], test_MW: jax.Array, counts: tuple[int, ...]) -> jax.Array:
    """Return scores [M, K], K the classes of all label sets; chunks of features, labels and whether a row counts."""
    set_of_K = np.repeat(np.arange(len(counts)), counts)
    class_of_K = np.concatenate([np.arange(count) for count in counts])
    width, num_train = test_MW.shape[1], chunks[2].sum().astype(jnp.float32)

    def targets(labels_RL: jax.Array) -> jax.Array:
        return (labels_RL[:, set_of_K] == class_of_K).astype(jnp.float32)

    def count(total_K, chunk):
        return total_K + jnp.where(chunk[2][:, None], targets(chunk[1]), 0).sum(axis=0), None

    mean_K = jax.lax.scan(count, jnp.zeros(len(set_of_K)), chunks)[0] / num_train

    def gather(sums, chunk):
        rows_RW, labels_RL, _ = chunk  # rows that do not count are zeros
        gram_WW, cross_WK = sums
        return (gram_WW + _matmul(rows_RW.T, rows_RW), cross_WK + _matmul(rows_RW.T, targets(labels_RL) - mean_K)), None

    zeros = jnp.zeros((width, width)), jnp.zeros((width, len(set_of_K)))
    (gram_WW, cross_WK), _ = jax.lax.scan(gather, zeros, chunks)
    eigenvalues_W, vectors_WW = jnp.linalg.eigh(gram_WW)
    eigenvalues_W = jnp.maximum(eigenvalues_W, 0)  # rounding may leave them below
    rotated_WK = _matmul(vectors_WW.T, cross_WK)
    penalties_P = jnp.asarray(PENALTIES, jnp.float32) * num_train

    def leave_out(squares_PK, chunk):
        rows_RW, labels_RL, keep_R = chunk
        turned_RW, residual_RK = _matmul(rows_RW, vectors_WW), targets(labels_RL) - mean_K

        def squares(penalty: jax.Array) -> jax.Array:
            shrink_W = 1 / (eigenvalues_W + penalty)
            left_RK = residual_RK - _matmul(turned_RW, rotated_WK * shrink_W[:, None])
            leverage_R = 1 / num_train + _matmul(jnp.square(turned_RW), shrink_W)
            left_RK = left_RK / jnp.maximum(1 - leverage_R, 1e-6)[:, None]
            return jnp.where(keep_R[:, None], jnp.square(left_RK), 0).sum(axis=0)

        return squares_PK + jax.lax.map(squares, penalties_P), None

    squares_PK, _ = jax.lax.scan(leave_out, jnp.zeros((len(PENALTIES), len(set_of_K))), chunks)
    sums_PL = _matmul(squares_PK, (set_of_K[:, None] == np.arange(len(counts))).astype(np.float32))
    penalty_K = penalties_P[jnp.argmin(sums_PL, axis=0)][set_of_K]
    weights_WK = _matmul(vectors_WW, rotated_WK / (eigenvalues_W[:, None] + penalty_K))
    return _matmul(test_MW, weights_WK) + mean_K


def mlp_scores(examples: Examples, steps: int) -> dict[str, np.ndarray]:
    """Return float32 [M, classes] by label set: logits of a network with one hidden layer.

    HIDDEN units with GELU; AdamW from PEAK_RATE on a cosine to 0, BATCH examples a step drawn anew, cross-entropy.
    All label sets train side by side, each with a network of its own. Networks and draws are the same each time.

    Args:
      examples: from `prepare`.
      steps: updates, at least 1.
    """
    counts = tuple(examples.num_classes.values())
    deviation = 1 / math.sqrt(examples.width)  # of the real width: the padding adds nothing to a hidden unit
    scores = _compiled(_mlp)(examples.train, examples.labels, examples.test, deviation, counts, steps)
    return dict(zip(examples.num_classes, map(np.asarray, scores), strict=True))


def _mlp(train_NW, labels_NL, test_MW, deviation, counts: tuple[int, ...], steps: int) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(_KEY), 3)
    outs = [jax.random.normal(jax.random.fold_in(keys[1], n), (HIDDEN, count)) for n, count in enumerate(counts)]
    params = {
        # The hidden layers of all label sets as one product.
        "hidden": jax.random.normal(keys[0], (train_NW.shape[1], len(counts) * HIDDEN)) * deviation,
        "hidden_bias": jnp.zeros(len(counts) * HIDDEN),
        "out": [kernel / math.sqrt(HIDDEN) for kernel in outs],
        "out_bias": [jnp.zeros(count) for count in counts],
    }
    decayed = {"hidden": True, "hidden_bias": False, "out": True, "out_bias": False}
    optimizer = optax.adamw(optax.cosine_decay_schedule(PEAK_RATE, steps), weight_decay=WEIGHT_DECAY, mask=decayed)

    def logits(params, rows_RW: jax.Array) -> list[jax.Array]:
        hidden_R = jnp.split(gelu(_matmul(rows_RW, params["hidden"]) + params["hidden_bias"]), len(counts), axis=1)
        layers = zip(hidden_R, params["out"], params["out_bias"], strict=True)
        return [_matmul(hidden_RH, kernel) + bias for hidden_RH, kernel, bias in layers]

    def loss(params, rows_RW: jax.Array, labels_RL: jax.Array) -> jax.Array:
        pairs = zip(logits(params, rows_RW), labels_RL.T, strict=True)
        return sum(optax.softmax_cross_entropy_with_integer_labels(*pair).mean() for pair in pairs)

    def step(carry, index_R: jax.Array):
        params, state = carry
        gradients = jax.grad(loss)(params, train_NW[index_R], labels_NL[index_R])
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    index_SR = jax.random.randint(keys[2], (steps, BATCH), 0, len(train_NW))
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), index_SR)
    return logits(params, test_MW)
