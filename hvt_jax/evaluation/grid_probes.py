"""Probes on frozen features, trained with a whole grid of learning rates and weight decays at once.

Every setting of a grid sees the same batches: they are read, placed and standardised once, and the networks of all
settings stand side by side in one program (`jax.vmap`), as the attentive probe of V-JEPA 2 (arXiv 2506.09985) does.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hvt_jax.engine.compilation import quick_compiler_options
from hvt_jax.evaluation.probe_networks import Params, Probe

HELD_OUT = 0.2  # share of the training videos that choose the setting
_SEED = 0  # of the held-out videos, the batches and the networks: the same in every evaluation
_CHUNK_BYTES = 2**26  # of examples that are handed to the device at once
_OUT = -1e9  # logit of a class that the label set does not have


class Setting(NamedTuple):
    """Peak learning rate and decoupled weight decay of AdamW."""

    rate: float
    decay: float


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a probe trains: `epochs`, but at least `least` and at most `most` steps of `batch` examples."""

    batch: int
    epochs: int
    least: int
    most: int

    def steps(self, examples: int) -> int:
        """Return the number of steps for so many examples."""
        return min(max(math.ceil(self.epochs * examples / self.batch), self.least), self.most)


def grid(rates: tuple[float, ...], decays: tuple[float, ...]) -> tuple[Setting, ...]:
    """Return all pairs."""
    return tuple(Setting(*pair) for pair in itertools.product(rates, decays))


def hold_out(num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows to train on, rows held out to choose by), int [..] each, at least one in both.

    The same for equal numbers of training videos, whatever the protocol.

    Raises:
      ValueError: for less than two videos.
    """
    if num_train < 2:
        raise ValueError(f"{num_train} training videos: choosing a setting needs at least 2")
    order = np.random.default_rng(_SEED).permutation(num_train)
    held = min(max(1, round(HELD_OUT * num_train)), num_train - 1)
    return np.sort(order[held:]), np.sort(order[:held])


class Chosen(NamedTuple):
    """What a grid gave.

    Attributes:
      scores: logits [M, ...views, classes] of the probe with the best setting, trained on all training videos.
      setting: the best one.
      held_out_top1: of every setting on the held-out training videos, in %.
    """

    scores: np.ndarray
    setting: Setting
    held_out_top1: list[float]


def choose_and_fit(
    probe: Probe,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    num_classes: int,
    settings: tuple[Setting, ...],
    schedule: Schedule,
    on_step: Callable[[], object] = lambda: None,
) -> Chosen:
    """Train all settings on a part of the training videos, choose by the rest, train the chosen one on all, and ask it.

    The setting is the one with the best top-1 accuracy on the held-out videos; of equal ones that with the lower
    cross-entropy. Its network is then trained anew on all training videos, and only that one meets the test videos.

    Args:
      probe: the network; its classes may be more than `num_classes`, so that label sets share what is compiled.
      train: [N, ...] examples, in memory or mapped from a file.
      labels: int [N].
      test: [M, V, ...] with V views of every test video.
      num_classes: of the label set.
      settings: the grid.
      schedule: how long each trains.
      on_step: called twice: when the setting is chosen, and at the end.
    """
    learn, held = hold_out(len(train))
    fitted = fit(probe, train, labels, learn, num_classes=num_classes, settings=settings, schedule=schedule)
    held_GMC = predict(probe, fitted, train, held, num_classes)
    on_step()
    truth = labels[held]
    top1 = 100.0 * (held_GMC.argmax(axis=2) == truth).mean(axis=1)
    log_probs = jax.nn.log_softmax(held_GMC, axis=2)
    losses = -np.asarray(log_probs)[:, np.arange(len(truth)), truth].mean(axis=1)
    best = min(range(len(settings)), key=lambda number: (-top1[number], losses[number]))
    everything = np.arange(len(train))
    only = (settings[best],)
    fitted = fit(probe, train, labels, everything, num_classes=num_classes, settings=only, schedule=schedule)
    asked = np.arange(len(test))
    scores = [predict(probe, fitted, test[:, view], asked, num_classes)[0] for view in range(test.shape[1])]
    on_step()
    return Chosen(np.stack(scores, axis=1), settings[best], [float(value) for value in top1])


def fit(
    probe: Probe,
    examples: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    num_classes: int,
    settings: tuple[Setting, ...],
    schedule: Schedule,
) -> Params:
    """Return the parameters of all settings, [settings, ...] each, after AdamW on a cosine from the rate to 0.

    Matrices are decayed, vectors not. All settings begin with the same network and see the same batches.

    Args:
      probe: the network.
      examples: [N, ...], in memory or mapped from a file.
      labels: int [N].
      rows: int [R], which examples to learn from.
      num_classes: of the label set.
      settings: the grid.
      schedule: how long.
    """
    batch = min(schedule.batch, len(rows))
    steps = schedule.steps(len(rows))
    table_SB = _batches(rows, batch, steps)
    rates, decays = (jnp.asarray(values, jnp.float32) for values in zip(*settings, strict=True))
    params = probe.initialise(jax.random.key(_SEED))
    state = _optimizer(0.0).init(params)
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(settings), *leaf.shape)), (params, state))
    size = max(1, int(_CHUNK_BYTES // max(1, batch * examples[:1].nbytes)))
    size = min(size, steps)
    for start in range(0, steps, size):
        # A last chunk that is too short is filled with steps that change nothing, so that one program serves all.
        index_SB = table_SB[start : start + size]
        counts_S = np.arange(size) < len(index_SB)
        index_SB = np.concatenate([index_SB, np.repeat(index_SB[-1:], size - len(index_SB), axis=0)])
        inputs = examples[index_SB.ravel()].reshape(size, batch, *examples.shape[1:])
        turns = np.cos(np.pi * (start + np.arange(size)) / steps) / 2 + 0.5
        arrays = (inputs, labels[index_SB].astype(np.int32), turns.astype(np.float32), counts_S)
        carry = _compiled(_chunk)(probe, carry, arrays, rates, decays, num_classes)
    return carry[0]


def predict(probe: Probe, fitted: Params, examples: np.ndarray, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Return logits float32 [settings, rows, num_classes] of all fitted settings, in chunks of one size."""
    size = min(len(rows), max(1, int(_CHUNK_BYTES // max(1, examples[:1].nbytes))), 1024)
    parts = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        padded = np.concatenate([some, np.repeat(some[-1:], size - len(some))])
        parts.append(np.asarray(_compiled(_ask)(probe, fitted, examples[padded]))[:, : len(some), :num_classes])
    return np.concatenate(parts, axis=1)


def _batches(rows: np.ndarray, batch: int, steps: int) -> np.ndarray:
    """Return int [steps, batch]: epoch after epoch in a new order, nothing twice before all came once."""

    def draw() -> Iterator[np.ndarray]:
        random = np.random.default_rng(_SEED + 1)
        while True:
            yield random.permutation(rows)

    epochs = math.ceil(steps * batch / len(rows))
    return np.concatenate(list(itertools.islice(draw(), epochs)))[: steps * batch].reshape(steps, batch)


def _optimizer(decay: jax.Array | float) -> optax.GradientTransformation:
    matrices = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(decay, mask=matrices))


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Return a function compiled; made late, because it asks for the backend."""
    return jax.jit(function, static_argnames=("probe",), compiler_options=quick_compiler_options())


def _chunk(probe: Probe, carry: Any, arrays: Any, rates_G: jax.Array, decays_G: jax.Array, num_classes: jax.Array):
    """Return parameters and optimizer state of all settings after the steps of a chunk."""

    def loss(params, prepared, labels_B):
        logits_BC = probe.logits(params, prepared)
        logits_BC = jnp.where(jnp.arange(logits_BC.shape[1]) < num_classes, logits_BC, _OUT)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B).mean()

    def step(carry, batch):
        inputs, labels_B, turn, counts = batch
        prepared = probe.prepare(inputs)

        def move(params, state, rate, decay):
            gradients = jax.grad(loss)(params, prepared, labels_B)
            updates, moved = _optimizer(decay).update(gradients, state, params)
            return jax.tree.map(lambda leaf, update: leaf - rate * turn * update, params, updates), moved

        moved = jax.vmap(move)(*carry, rates_G, decays_G)
        return jax.tree.map(lambda new, old: jnp.where(counts, new, old), moved, carry), None

    return jax.lax.scan(step, carry, arrays)[0]


def _ask(probe: Probe, fitted: Params, examples: jax.Array) -> jax.Array:
    prepared = probe.prepare(jnp.asarray(examples))
    return jax.vmap(probe.logits, (0, None))(fitted, prepared)
