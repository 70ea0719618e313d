"""The local objective: every level predicts up, down and sideways, and only itself learns from it.

Gradient rule: the encoder and the predictors of level k receive gradient only from edges whose source
is k. The model stops what enters a level; this file stops the targets.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hvt_jax.hierarchy import LEVELS, Edge
from hvt_jax.objectives import regularizers
from hvt_jax.objectives.distances import distance
from hvt_jax.objectives.draws import Draw
from hvt_jax.settings import ObjectiveSettings


class Prediction(NamedTuple):
    """What an edge predicted and what it should have: [B, N, D] and [B, N, D] or [B, 1, D]."""

    prediction: jax.Array
    target: jax.Array


class LocalLosses(NamedTuple):
    """Losses of a step.

    Attributes:
      edges: {level: {edge name: unweighted loss}} by source level.
      regularizers: {level: unweighted regulariser of the level's own raw tokens}, may be empty.
      total: the weighted sum whose one backward pass trains every level.
    """

    edges: dict[str, dict[str, jax.Array]]
    regularizers: dict[str, jax.Array]
    total: jax.Array


def predict(
    pyramid,
    outputs: dict,
    draws: dict[str, Draw],
    *,
    train: bool,
    valid: jax.Array | None = None,
    attached: bool = False,
) -> dict[str, Prediction]:
    """Return the prediction and target of every edge, keyed by `str(edge)`.

    Args:
      pyramid: the model whose predictors are asked.
      outputs: its `LevelOutput` per level.
      draws: the questions of this step.
      train: use batch statistics in the predictors and update the running ones.
      valid: bool [B].
      attached: let gradients through targets of encoded levels, as the original did (docs/faults.md).
    """
    predictions = {}
    for edge in pyramid.edges:
        draw = draws.get(str(edge))
        predictor = pyramid.levels[edge.source].predictors[edge.relation]
        source = _source_tokens(outputs, edge)
        prediction = predictor(source, draw.codes if draw else {}, train=train, valid=valid)
        prediction, target = _align(outputs, edge, prediction, draw)
        if not attached or edge.target == "patch":
            target = jax.lax.stop_gradient(target)
        predictions[str(edge)] = Prediction(prediction, target)
    return predictions


def _source_tokens(outputs: dict, edge: Edge) -> jax.Array:
    # A causal level predicts its next member from every state, not from the token of the group.
    states = outputs[edge.source].states
    return outputs[edge.source].tokens if edge.relation != "down" or states is None else states


def _align(outputs: dict, edge: Edge, prediction: jax.Array, draw: Draw | None):
    target = outputs[edge.target]
    if draw is not None:
        return prediction, jnp.take_along_axis(target.tokens, draw.target[..., None], axis=1)
    if edge.relation == "down":  # causal: state n predicts member n + 1, across the borders of groups
        return prediction[:, :-1], target.tokens[:, 1:]
    if target.states is not None:  # up to a causal level: the state that came before
        return prediction[:, 1:], target.states[:, :-1]
    groups = target.tokens.shape[1]
    if groups == 1:
        return prediction, target.tokens
    return prediction, jnp.repeat(target.tokens, prediction.shape[1] // groups, axis=1)


def local_losses(
    predictions: dict[str, Prediction],
    outputs: dict,
    edges: tuple[Edge, ...],
    settings: ObjectiveSettings,
    *,
    edge_weights: dict[str, jax.Array | float],
    valid: jax.Array | None = None,
) -> LocalLosses:
    """Return the losses of a step and their weighted sum.

    Args:
      predictions: from `predict`.
      outputs: `LevelOutput` per level, whose raw tokens are regularised.
      edges: the edges of the hierarchy.
      settings: distance, regulariser and their constants.
      edge_weights: weight of every edge now, keyed by `str(edge)`.
      valid: bool [B].
    """
    losses: dict[str, dict[str, jax.Array]] = {}
    total = jnp.zeros(())
    for edge in edges:
        name = str(edge)
        loss = edge_distance(settings, edge, edges)(*predictions[name], valid)
        losses.setdefault(edge.source, {})[name] = loss
        total = total + edge_weights[name] * loss
    own = {}
    if settings.regularizer == "vicreg":
        for level in LEVELS:
            if level in losses:
                own[level] = own_regularizer(outputs[level].raw, settings, valid)
                total = total + settings.regularizer_weight * own[level]
    return LocalLosses(losses, own, total)


def edge_distance(settings: ObjectiveSettings, edge: Edge, edges: tuple[Edge, ...]) -> Callable[..., jax.Array]:
    """Return the loss that `edge` is trained on, `f(prediction, target, valid)`; arguments as in `distance`."""
    # In the original a down target above the lowest level counts as regularised where it is source.
    regularize_target = edge.relation != "down" or edge.target == edges[0].source
    return functools.partial(distance, settings, regularize_target=regularize_target)


def own_regularizer(raw: jax.Array, settings: ObjectiveSettings, valid: jax.Array | None) -> jax.Array:
    """Return VICReg's variance and covariance terms of a level's own tokens [B, N, D] before its norm.

    Before the norm, because BatchNorm hides collapse. Source: layer-local predictive learning needs
    both terms in every layer (Halvagal & Zenke 2023; VICReg, Bardes et al. 2022).
    """
    variance, covariance = regularizers.variance_covariance(raw, valid, settings.variance_epsilon)
    return settings.variance_weight * variance + settings.covariance_weight * covariance


def initial_edge_weights(edges: tuple[Edge, ...], settings: ObjectiveSettings) -> dict[str, float]:
    """Return the configured weight of every edge, keyed by `str(edge)`."""
    return {str(edge): getattr(getattr(settings.edge_weights, edge.source), edge.relation) for edge in edges}
