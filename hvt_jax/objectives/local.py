"""The local objective: every level predicts up, down and sideways, and only itself learns from it.

Gradient rule: the encoder and the predictors of level k receive gradient only from edges whose source
is k. The model stops what enters a level; this file stops the targets. The target of a `side` edge is a
token of its own source level, so that it may keep its gradient without breaking the rule, and does where
the prediction has to choose (`contrastive`): the candidates hold it up. Where it has to be hit, it is stopped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from hvt_jax.hierarchy import LEVELS, Edge, Hierarchy
from hvt_jax.objectives import contrastive, regularizers
from hvt_jax.objectives.distances import distance, masked_mean, row_distances
from hvt_jax.objectives.draws import Candidates, Draw
from hvt_jax.settings import ObjectiveSettings


class Prediction(NamedTuple):
    """What an edge predicted and what it should have.

    Attributes:
      prediction: [B, N, D].
      target: [B, N, D] or [B, 1, D].
      choice: what the target is chosen from.
      weight: bool [B, N], predictions that count, or None for all.
      source: [B, N, D of the source level], the tokens that were asked.
      emphasis: [B, N], not negative: how much each counts where the target is chosen, or None for the same.
    """

    prediction: jax.Array
    target: jax.Array
    choice: contrastive.Choice
    weight: jax.Array | None
    source: jax.Array
    emphasis: jax.Array | None = None


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


def leaves_up_to_one(settings: ObjectiveSettings) -> bool:
    """Whether an edge up to a level with one token a video is left out: there is nothing to choose from."""
    return settings.distance == "contrastive" and not settings.batch_candidates_weight


def predict(
    pyramid,
    outputs: dict,
    draws: dict[str, Draw],
    *,
    train: bool,
    valid: jax.Array | None = None,
    frame_valid: jax.Array | None = None,
    change: jax.Array | None = None,
    attached: bool = False,
    attached_side: bool = False,
) -> dict[str, Prediction]:
    """Return the prediction and target of every edge, keyed by `str(edge)`.

    Args:
      pyramid: the model whose predictors are asked.
      outputs: its `LevelOutput` per level.
      draws: what every edge is asked in this step.
      train: use batch statistics in the predictors and update the running ones.
      valid: bool [B].
      frame_valid: bool [B, T], frames that are pictures and no padding, or None for all.
      change: [B, T, P], emphasis on predictions by patches or of every patch; None for the same on all.
      attached: let gradients through targets of encoded levels, as the original did (docs/faults.md).
      attached_side: let gradients through targets of side edges, which are of the source level itself.
    """
    asked = {"valid": valid, "frame_valid": frame_valid, "change": change, "train": train}
    predictions = {}
    for edge in pyramid.hierarchy.edges:
        is_attached = attached and edge.target != "patch" or attached_side and edge.relation == "side"
        draw = draws.get(str(edge))
        predictions[str(edge)] = predict_edge(pyramid, outputs, edge, draw, is_attached=is_attached, **asked)
    return predictions


def predict_edge(
    pyramid,
    outputs: dict,
    edge: Edge,
    draw: Draw | None,
    *,
    train: bool,
    valid: jax.Array | None = None,
    frame_valid: jax.Array | None = None,
    change: jax.Array | None = None,
    is_attached: bool = False,
) -> Prediction:
    """Return prediction and target of one edge; `is_attached`: the target keeps its gradient; others as in `predict`.

    `draw` is None where the edge draws nothing.
    """
    predictor = pyramid.levels[edge.source].predictors[edge.relation]
    source = _source_tokens(outputs, edge)
    prediction = predictor(source, draw.codes if draw else {}, train=train, valid=valid)
    first, prediction, tokens, index = _align(outputs, edge, prediction, draw)
    if not is_attached:
        tokens = jax.lax.stop_gradient(tokens)
    target = tokens if tokens.shape[1] == 1 else jnp.take_along_axis(tokens, index[..., None], axis=1)
    asked = slice(first, first + index.shape[1])
    sources = jnp.arange(index.shape[1]) if edge.relation == "side" else None
    token_valid = tokens_valid(tokens.shape[1], valid, frame_valid)
    weight = tokens_valid(source.shape[1], valid, frame_valid)
    if weight is not None:
        weight = weight[:, asked] & jnp.take_along_axis(token_valid, index, axis=1)
    choice = contrastive.Choice(tokens, index, sources, token_valid)
    emphasis = None if change is None else _emphasis(edge, change, index, first, is_drawn=draw is not None)
    return Prediction(prediction, target, choice, weight, source[:, asked], emphasis)


def _emphasis(edge: Edge, change: jax.Array, index: jax.Array, first: int, *, is_drawn: bool) -> jax.Array | None:
    """Return the change [B, N] at the patch that is asked for, or that asks, unless it was drawn by it already."""
    change_BM = rearrange(change, "b t p -> b (t p)")
    if edge.source == "patch" and edge.relation == "up":
        return change_BM[:, first : first + index.shape[1]]
    if edge.source == "patch" or edge.target == "patch" and not is_drawn:
        return jnp.take_along_axis(change_BM, index, axis=1)
    return None


def tokens_valid(num_tokens: int, valid: jax.Array | None, frame_valid: jax.Array | None) -> jax.Array | None:
    """Return which tokens are of valid videos and frames, bool [B, num_tokens]; None for all.

    A token of several frames is valid if one of them is.

    Args:
      num_tokens: of a level, in time order: a multiple of the number of frames or a divisor of it.
      valid: bool [B].
      frame_valid: bool [B, T].
    """
    if frame_valid is None:
        return None if valid is None else jnp.broadcast_to(valid[:, None], (len(valid), num_tokens))
    frames = frame_valid.shape[1]
    if num_tokens >= frames:
        found = jnp.repeat(frame_valid, num_tokens // frames, axis=1)
    else:
        found = rearrange(frame_valid, "b (n f) -> b n f", n=num_tokens).any(-1)
    return found if valid is None else found & valid[:, None]


def _source_tokens(outputs: dict, edge: Edge) -> jax.Array:
    # A causal level predicts its next member from every state, not from the token of the group.
    states = outputs[edge.source].states
    return outputs[edge.source].tokens if edge.relation != "down" or states is None else states


def _align(outputs: dict, edge: Edge, prediction: jax.Array, draw: Draw | None):
    """Return which source asks first, the predictions that have a target, the tokens asked for, and which of them."""
    target = outputs[edge.target]
    batch, total = prediction.shape[:2]
    if draw is not None:
        return 0, prediction, target.tokens, draw.target
    if edge.relation == "down":  # causal: state n predicts member n + 1, across the borders of groups
        return 0, prediction[:, :-1], target.tokens, _every(batch, jnp.arange(1, total))
    if target.states is not None:  # up to a causal level: the state that came before
        return 1, prediction[:, 1:], target.states, _every(batch, jnp.arange(total - 1))
    groups = target.tokens.shape[1]
    return 0, prediction, target.tokens, _every(batch, jnp.arange(total) // (total // groups))


def _every(batch: int, index_N: jax.Array) -> jax.Array:
    return jnp.broadcast_to(index_N, (batch, len(index_N)))


def local_losses(
    predictions: dict[str, Prediction],
    outputs: dict,
    hierarchy: Hierarchy,
    settings: ObjectiveSettings,
    *,
    edge_weights: dict[str, jax.Array | float],
    candidates: Candidates | None = None,
    valid: jax.Array | None = None,
    frame_valid: jax.Array | None = None,
) -> LocalLosses:
    """Return the losses of a step and their weighted sum.

    Args:
      predictions: from `predict`.
      outputs: `LevelOutput` per level, whose raw tokens are regularised.
      hierarchy: its sizes and edges.
      settings: distance, regulariser and their constants.
      edge_weights: weight of every edge now, keyed by `str(edge)`.
      candidates: what competes with the targets; only `contrastive` needs it.
      valid: bool [B].
      frame_valid: bool [B, T], see `predict`.
    """
    losses: dict[str, dict[str, jax.Array]] = {}
    total = jnp.zeros(())
    for edge in hierarchy.edges:
        name = str(edge)
        loss = edge_loss(settings, edge, hierarchy, predictions[name], candidates)
        losses.setdefault(edge.source, {})[name] = loss
        total = total + edge_weights[name] * loss
    own = {}
    if settings.regularizer == "vicreg":
        for level in LEVELS:
            if level in losses:
                raw = outputs[level].raw
                own[level] = own_regularizer(raw, settings, tokens_valid(raw.shape[1], valid, frame_valid))
                total = total + settings.regularizer_weight * own[level]
    return LocalLosses(losses, own, total)


def edge_loss(
    settings: ObjectiveSettings,
    edge: Edge,
    hierarchy: Hierarchy,
    asked: Prediction,
    candidates: Candidates | None,
) -> jax.Array:
    """Return the loss of one edge, a scalar over the predictions that count; arguments as in `local_losses`."""
    if settings.distance == "contrastive":
        return masked_mean(prediction_losses(settings, edge, hierarchy, asked, candidates), counts(asked))
    # In the original a down target above the lowest level counts as regularised where it is source.
    regularize_target = edge.relation != "down" or edge.target == hierarchy.edges[0].source
    return distance(settings, asked.prediction, asked.target, asked.weight, regularize_target=regularize_target)


def prediction_losses(
    settings: ObjectiveSettings,
    edge: Edge,
    hierarchy: Hierarchy,
    asked: Prediction,
    candidates: Candidates | None,
) -> jax.Array:
    """Return the loss of every prediction of one edge, [B, N], whether it counts or not; see `local_losses`.

    What only a whole batch has, the variance and covariance of the distance `vicreg`, is not in it.
    """
    if settings.distance == "contrastive":
        return contrastive.choice_losses(asked.prediction, asked.choice, edge, hierarchy, settings, candidates)
    return row_distances(settings, asked.prediction, asked.target)


def counts(asked: Prediction) -> jax.Array | None:
    """Return how much every prediction of an edge counts where the target is chosen, [B, N]; None for the same."""
    if asked.emphasis is None or asked.weight is None:
        return asked.weight if asked.emphasis is None else asked.emphasis
    return jnp.where(asked.weight, asked.emphasis, 0)


def own_regularizer(raw: jax.Array, settings: ObjectiveSettings, valid: jax.Array | None) -> jax.Array:
    """Return VICReg's variance and covariance terms of a level's own tokens [B, N, D] before its norm.

    `valid` is bool [B] or [B, N].

    Before the norm, because BatchNorm hides collapse. Source: layer-local predictive learning needs
    both terms in every layer (Halvagal & Zenke 2023; VICReg, Bardes et al. 2022).
    """
    variance, covariance = regularizers.variance_covariance(raw, valid, settings.variance_epsilon)
    return settings.variance_weight * variance + settings.covariance_weight * covariance


def initial_edge_weights(edges: tuple[Edge, ...], settings: ObjectiveSettings) -> dict[str, float]:
    """Return the configured weight of every edge, keyed by `str(edge)`.

    What frames are asked of patches counts `patch_weight` times: of all that is asked, only that wants to know what
    things look like.
    """
    weights = {str(edge): getattr(getattr(settings.edge_weights, edge.source), edge.relation) for edge in edges}
    asks_patches = {str(edge) for edge in edges if edge.relation == "down" and edge.target == "patch"}
    return {name: weight * (settings.patch_weight if name in asks_patches else 1) for name, weight in weights.items()}
