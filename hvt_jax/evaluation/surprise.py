"""Where and when a video surprises the model: the loss of every prediction, token by token."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.hierarchy import LEVELS, Edge
from hvt_jax.model.stem import merge_frames
from hvt_jax.objectives import draws, local
from hvt_jax.objectives.local import Prediction

ErrorMaps = dict[str, dict[str, jax.Array]]  # {edge: {"error", "blind": float32 [B, N]}}

_SEED = 0  # of candidates where not all tokens can compete: the same for every video


def map_level(edge: Edge) -> str:
    """Return the level whose tokens the errors of an edge belong to: the lower of its two."""
    return min(edge.source, edge.target, key=LEVELS.index)


def build_surprise(definition: Definition) -> Callable[[dict, dict, jax.Array, jax.Array], ErrorMaps]:
    """Return `surprise(params, stats, video, frame_valid) -> {edge: {"error", "blind"}}`.

    Every draw that training can make is asked once, in evaluation mode, and its loss is measured by the
    objective of the config (of the distance `vicreg` its invariance term). Errors stand at the token that is asked
    for; of an edge that predicts up, at the token that asks: so they are tokens of `map_level(edge)`. Where several
    draws ask for one token, their mean is taken, each weighted as often as training draws it.

    `video` is uint8 [B, T, Y', X', 3], of which the middle is taken, `frame_valid` bool [B, T]. Returned are float32
    [B, N] in time order: "error", and "blind", the error of an answer that knows nothing, which is a blind choice
    among the candidates, or the mean target where the target has to be hit. NaN where nothing is asked, as of the
    first member of a causal level, or in frames that are padding.
    """

    def surprise(params, stats, video, frame_valid):
        video = steps.prepare_evaluation(definition, video)
        model = state_lib.merge(definition.graphdef, params, stats)
        outputs = model(video, train=False, last_state=definition.method.last_state)
        candidates = steps.draw_targets(definition, jax.random.key(_SEED), video, frame_valid).candidates
        merged = merge_frames(frame_valid, definition.hierarchy.frame_step)
        return {
            str(edge): _edge_errors(definition, model, outputs, edge, (merged, candidates))
            for edge in definition.hierarchy.edges
        }

    return surprise


def _edge_errors(definition: Definition, model, outputs: dict, edge: Edge, asked: tuple) -> dict[str, jax.Array]:
    frame_valid, candidates = asked
    hierarchy, objective = definition.hierarchy, definition.settings.objective
    batch, tokens = len(frame_valid), hierarchy.num_tokens(map_level(edge))

    def ask(draw, share_N) -> jax.Array:
        """Return sums of shares, errors and blind errors at every token, [3, B, N]."""
        found = local.predict_edge(model, outputs, edge, draw, train=False, frame_valid=frame_valid)
        blind = found._replace(prediction=_know_nothing(found, objective.distance))
        losses = [local.prediction_losses(objective, edge, hierarchy, one, candidates) for one in (found, blind)]
        share_BN = jnp.where(found.weight, jnp.ones(()) if share_N is None else share_N, 0)
        sums = jnp.stack([share_BN, *(share_BN * loss.astype(jnp.float32) for loss in losses)])
        if edge.relation == "up":  # all but the first tokens may have asked
            return jnp.pad(sums, ((0, 0), (0, 0), (tokens - sums.shape[2], 0)))
        return jnp.zeros((3, batch, tokens)).at[:, jnp.arange(batch)[:, None], found.choice.index].add(sums)

    if edge.relation == "side" or edge.relation == "down" and edge.source not in hierarchy.causal:
        drawn = draws.every_draw(edge, hierarchy, batch=batch, std_divisor=objective.std_divisor)
        total = jnp.zeros((3, batch, tokens))
        (share, error, blind), _ = jax.lax.scan(lambda sums, one: (sums + ask(*one), None), total, drawn)
    else:
        share, error, blind = ask(None, None)
    mean = lambda sums: jnp.where(share > 0, sums / jnp.where(share > 0, share, 1), jnp.nan)  # noqa: E731
    return {"error": mean(error), "blind": mean(blind)}


def _know_nothing(asked: Prediction, distance: str) -> jax.Array:
    """Return an answer [B, N, D] that makes all candidates alike, or is the mean of all targets."""
    if distance == "contrastive":
        return jnp.zeros_like(asked.prediction)
    mean_D = asked.choice.tokens.astype(jnp.float32).mean((0, 1))
    return jnp.broadcast_to(mean_D, asked.prediction.shape).astype(asked.prediction.dtype)
