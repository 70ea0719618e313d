"""Choosing: a prediction must tell its target from candidates (cosine over a temperature, cross-entropy).

A prediction that has to *hit* its target can rest on what never changes in a video; one that has to *choose* it among
the tokens of the same video cannot, so time must be encoded (CPC, van den Oord et al. 2018, with the candidates of one
sequence; Greedy InfoMax, Loewe et al. 2019, for losses without a gradient between blocks). Candidates of the whole
batch reward what tells videos apart; they are an option with a weight of their own.

Every prediction has its own target and, as candidates beside it,

* of the video, where the target level has few tokens: all others;
* of the video, where the target is a patch: other times of the same place and some other places of the same frame, so
  that memory is linear in the number of tokens;
* of the batch: one draw of tokens for all predictions to a level.

Never a candidate: the source itself, a token nearer in time to the target than `least_distance`, what is not valid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from hvt_jax.hierarchy import Edge, Hierarchy
from hvt_jax.objectives.draws import Candidates
from hvt_jax.settings import ObjectiveSettings

_SMALLEST_NORM = 1e-6
_NEVER = -1e9  # logit of what is no candidate


class Choice(NamedTuple):
    """What the predictions of one edge are asked about.

    Attributes:
      tokens: [B, M, D], the tokens of the target level, flat and in time order.
      index: int32 [B, N], which of them each prediction wants.
      source: int32 [N], which token of the same level asks, or None if another level does.
      valid: bool [B, M], tokens that may be candidates, or None for all.
    """

    tokens: jax.Array
    index: jax.Array
    source: jax.Array | None
    valid: jax.Array | None


def choice_losses(
    prediction: jax.Array,
    choice: Choice,
    edge: Edge,
    hierarchy: Hierarchy,
    settings: ObjectiveSettings,
    candidates: Candidates,
) -> jax.Array:
    """Return the loss of every prediction, [B, N], float32 or wider; 0 where nothing competes with the target.

    Args:
      prediction: [B, N, D].
      choice: what is asked about.
      edge: whose predictions they are.
      hierarchy: its sizes.
      settings: temperature, weights of the two kinds of candidates, least distance.
      candidates: those that are drawn, see `objectives.draws`.
    """
    asked_BND, tokens_BMD = _unit(prediction), _unit(choice.tokens)
    wanted_BND = jnp.take_along_axis(tokens_BMD, choice.index[..., None], axis=1)
    own_BN1 = (asked_BND * wanted_BND).sum(-1, keepdims=True)
    choice = choice._replace(tokens=tokens_BMD)
    total = jnp.zeros(choice.index.shape, own_BN1.dtype)
    if settings.video_candidates_weight:
        of_video = _of_patches if edge.target == "patch" else _of_video
        logits = of_video(asked_BND, choice, hierarchy, settings.least_distance, candidates.places)
        total = total + settings.video_candidates_weight * _cross_entropy(own_BN1, logits, settings)
    if str(edge) in candidates.tokens:
        times_M = token_times(edge.target, hierarchy, tokens_BMD.shape[1])
        logits = [_of_batch(asked_BND, choice, times_M, settings.least_distance, candidates.tokens[str(edge)])]
        weight = settings.batch_candidates_weight or 1.0  # without one only where the video has no candidates
        total = total + weight * _cross_entropy(own_BN1, logits, settings)
    return total


def token_times(level: str, hierarchy: Hierarchy, num_tokens: int) -> jax.Array:
    """Return the position in time, int32 [num_tokens], of the tokens of `level`, or of its states if it has more."""
    if level == "patch":
        return jnp.arange(num_tokens) // hierarchy.patches_per_frame
    return jnp.arange(num_tokens)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), _SMALLEST_NORM**2))


def _cross_entropy(own_BN1: jax.Array, others: list[jax.Array], settings: ObjectiveSettings) -> jax.Array:
    logits_BNK = jnp.concatenate([own_BN1, *others], axis=-1) / settings.contrastive_temperature
    return jax.nn.logsumexp(logits_BNK, axis=-1) - logits_BNK[..., 0]


def _of_video(asked_BND, choice: Choice, hierarchy: Hierarchy, least: int, places) -> list[jax.Array]:
    """Cosines with all tokens of the same video, [B, N, M]."""
    del hierarchy, places
    cosines_BNM = jnp.einsum("bnd,bmd->bnm", asked_BND, choice.tokens)
    number_M = jnp.arange(choice.tokens.shape[1])
    allowed = jnp.abs(number_M - choice.index[..., None]) >= least
    if choice.source is not None:
        allowed &= number_M != choice.source[:, None]
    if choice.valid is not None:
        allowed &= choice.valid[:, None]
    return [jnp.where(allowed, cosines_BNM, _NEVER)]


def _of_patches(asked_BND, choice: Choice, hierarchy: Hierarchy, least: int, places) -> list[jax.Array]:
    """Cosines with other times of the same place, [B, N, T], and other places of the same frame, [B, N, places]."""
    times, patches = hierarchy.num_frames, hierarchy.patches_per_frame
    predictions = asked_BND.shape[1]
    tokens_BTPD = rearrange(choice.tokens, "b (t p) d -> b t p d", t=times)
    place_BN, time_BN = choice.index % patches, choice.index // patches
    if predictions == times:
        # One prediction a frame: its column of patches, and its frame.
        columns_BTND = jnp.take_along_axis(tokens_BTPD, place_BN[:, None, :, None], axis=2)
        at_times = jnp.einsum("bnd,btnd->bnt", asked_BND, columns_BTND)
        frames_BNPD = jnp.take_along_axis(tokens_BTPD[:, :, places], time_BN[..., None, None], axis=1)
        at_places = jnp.einsum("bnd,bnpd->bnp", asked_BND, frames_BNPD)
    else:
        # A prediction for every place, in the order of the places: no token is copied for each of them.
        missing = times * patches - predictions  # a causal level is not asked for the first patch
        grid_BTPD = rearrange(jnp.pad(asked_BND, ((0, 0), (missing, 0), (0, 0))), "b (t p) d -> b t p d", t=times)
        at_times = rearrange(jnp.einsum("btpd,bspd->btps", grid_BTPD, tokens_BTPD), "b t p s -> b (t p) s")
        at_times = at_times[:, missing:]
        time_BT = rearrange(jnp.pad(time_BN, ((0, 0), (missing, 0))), "b (t p) -> b t p", t=times)[..., -1]
        frames_BTPD = jnp.take_along_axis(tokens_BTPD[:, :, places], time_BT[..., None, None], axis=1)
        at_places = jnp.einsum("btpd,btqd->btpq", grid_BTPD, frames_BTPD)
        at_places = rearrange(at_places, "b t p q -> b (t p) q")[:, missing:]
    near_in_time = jnp.abs(jnp.arange(times) - time_BN[..., None]) < least
    allowed_times, allowed_places = ~near_in_time, places != place_BN[..., None]
    if choice.source is not None:
        allowed_times &= jnp.arange(times) != (choice.source // patches)[:, None]
    if choice.valid is not None:  # frames are valid or not, so one place tells
        valid_BT = choice.valid[:, ::patches]
        allowed_times &= valid_BT[:, None]
        allowed_places &= jnp.take_along_axis(valid_BT, time_BN, axis=1)[..., None]
    return [jnp.where(allowed_times, at_times, _NEVER), jnp.where(allowed_places, at_places, _NEVER)]


def _of_batch(asked_BND, choice: Choice, times_M, least: int, drawn_K2) -> jax.Array:
    """Cosines with tokens drawn from the global batch, [B, N, K]."""
    video_K, token_K = drawn_K2[:, 0], drawn_K2[:, 1]
    cosines_BNK = jnp.einsum("bnd,kd->bnk", asked_BND, choice.tokens[video_K, token_K])
    is_own_B1K = jnp.arange(len(asked_BND))[:, None, None] == video_K
    is_barred_BNK = jnp.abs(times_M[token_K] - times_M[choice.index][..., None]) < least
    if choice.source is not None:
        is_barred_BNK |= token_K == choice.source[:, None]
    allowed = ~(is_own_B1K & is_barred_BNK)
    if choice.valid is not None:
        allowed &= choice.valid[video_K, token_K]
    return jnp.where(allowed, cosines_BNK, _NEVER)
