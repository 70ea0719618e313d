"""What every edge is asked in a step, as one small record of arrays that a test can replay."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from hvt_jax.hierarchy import Edge, Hierarchy

_MAX_COSINES = 2**23  # of the predictions of one edge with tokens of the batch: 32 MiB of float32


class Candidates(NamedTuple):
    """What competes with the targets of a step, where not all tokens can (`objectives.contrastive`).

    Attributes:
      places: int32 [places], of patches in a frame, each once.
      tokens: by edge int32 [K, 2], video in the global batch and token of what is asked for, with repetition.
    """

    places: jax.Array
    tokens: dict[str, jax.Array]


class Draw(NamedTuple):
    """What one edge is asked, per video and source token.

    Attributes:
      target: int32 [B, N], index of the wanted token among the target level's flat tokens.
      codes: int32 [B, N] per code table of the edge's predictor.
    """

    target: jax.Array
    codes: dict[str, jax.Array]


def draw_step(
    key: jax.Array,
    hierarchy: Hierarchy,
    *,
    batch: int,
    std_divisor: float,
    change: jax.Array | None = None,
) -> dict[str, Draw]:
    """Draw the members and times that a step asks for; a pure function of `key`.

    Up edges and causal down edges draw nothing. Every video of the batch gets draws of its own: were
    they shared, as in the original, the code would be constant over the batch for a level with one
    token a video and a BatchNorm in the predictor would remove it.

    Args:
      key: random key of the step.
      hierarchy: its sizes and edges.
      batch: B.
      std_divisor: side: the distance in time has std max(p, N-p) / std_divisor at position p of N.
      change: [B, T, P], in proportion to which the patches of a frame are drawn; None for evenly.

    Returns:
      A Draw per edge that draws, keyed by `str(edge)`.
    """
    draws = {}
    for index, edge in enumerate(hierarchy.edges):
        edge_key = jax.random.fold_in(key, index)
        if edge.relation == "side":
            draws[str(edge)] = _draw_side(edge_key, edge.source, hierarchy, batch, std_divisor)
        elif edge.relation == "down" and edge.source not in hierarchy.causal:
            logits = jnp.log(change) if edge.target == "patch" and change is not None else None
            any_group = hierarchy.asks_any_group(edge.source)
            draws[str(edge)] = _draw_down(edge_key, edge.source, hierarchy, batch, any_group=any_group, logits=logits)
    return draws


def _draw_down(
    key: jax.Array, level: str, hierarchy: Hierarchy, batch: int, *, any_group: bool, logits: jax.Array | None
) -> Draw:
    """Draw a member of every group, or of any; `logits` [B, groups, members], None for evenly."""
    groups, members = hierarchy.num_tokens(level), hierarchy.num_members(level)
    group_key, member_key = jax.random.split(key)
    group_BG = jax.random.randint(group_key, (batch, groups), 0, groups) if any_group else None
    if logits is None:
        member_BG = jax.random.randint(member_key, (batch, groups), 0, members)
    else:
        asked = logits if group_BG is None else jnp.take_along_axis(logits, group_BG[..., None], axis=1)
        member_BG = jax.random.categorical(member_key, asked)
    return _ask_down(member_BG, group_BG, groups, members)


def _ask_down(member_BG: jax.Array, group_BG: jax.Array | None, groups: int, members: int) -> Draw:
    if group_BG is None:
        return Draw(jnp.arange(groups) * members + member_BG, {"member": member_BG})
    return Draw(group_BG * members + member_BG, {"member": member_BG, "group": group_BG})


def _draw_side(key: jax.Array, level: str, hierarchy: Hierarchy, batch: int, std_divisor: float) -> Draw:
    times = hierarchy.num_times(level)
    logits = jnp.asarray(side_log_probabilities(times, std_divisor), jnp.float32)
    return _ask_side(jax.random.categorical(key, logits, shape=(batch, times)), level, hierarchy)


def _ask_side(time_BN: jax.Array, level: str, hierarchy: Hierarchy) -> Draw:
    times = hierarchy.num_times(level)
    distance_BN = distance_code(jnp.arange(times), time_BN, times)
    if level == "patch":  # the same patch position in another frame
        patches = hierarchy.patches_per_frame
        target_BTP = time_BN[..., None] * patches + jnp.arange(patches)
        return Draw(rearrange(target_BTP, "b t p -> b (t p)"), {"distance": jnp.repeat(distance_BN, patches, axis=1)})
    return Draw(time_BN, {"distance": distance_BN})


def every_draw(edge: Edge, hierarchy: Hierarchy, *, batch: int, std_divisor: float) -> tuple[Draw, jax.Array]:
    """Return all that an edge which draws can ever be asked, as K draws, and how likely each is.

    In every draw all sources ask for different tokens of the target level.

    Args:
      edge: a side edge, or a down edge of a level that is not causal.
      hierarchy: its sizes and edges.
      batch: B; all videos are asked the same.
      std_divisor: as in `draw_step`.

    Returns:
      a Draw of arrays [K, B, N], and float32 [K, N]: the share of a source's draws, even for members.
    """
    level, groups = edge.source, hierarchy.num_tokens(edge.source)
    if edge.relation == "side":
        times = hierarchy.num_times(level)
        time_KT = (jnp.arange(times) + jnp.arange(1, times)[:, None]) % times
        time_KBT = jnp.broadcast_to(time_KT[:, None], (times - 1, batch, times))
        asked = jax.vmap(lambda time_BT: _ask_side(time_BT, level, hierarchy))(time_KBT)
        shares = jnp.exp(jnp.asarray(side_log_probabilities(times, std_divisor), jnp.float32))
        return asked, jnp.repeat(shares[jnp.arange(times), time_KT], groups // times, axis=1)
    members, any_group = hierarchy.num_members(level), hierarchy.asks_any_group(level)
    number_K11 = jnp.arange(members * (groups if any_group else 1))[:, None, None]
    shape = (len(number_K11), batch, groups)
    member_KBG = jnp.broadcast_to(number_K11 % members, shape)
    group_KBG = jnp.broadcast_to((jnp.arange(groups) + number_K11 // members) % groups, shape) if any_group else None
    return _ask_down(member_KBG, group_KBG, groups, members), jnp.full((shape[0], groups), 1 / shape[0], jnp.float32)


def distance_code(source: jax.Array, target: jax.Array, times: int) -> jax.Array:
    """Return the index of the code of the distance target - source, which is never 0; 2·times-2 codes."""
    distance = target - source
    return jnp.where(distance < 0, distance + times - 1, distance + times - 2).astype(jnp.int32)


def side_log_probabilities(times: int, std_divisor: float) -> np.ndarray:
    """Return log probabilities [times, times] of target time given source time, -inf on the diagonal.

    A normal around the own position with std max(p, N-p) / std_divisor, rounded, truncated to the
    sequence and never itself, which is what drawing until a draw is legal gives in the original.
    """
    table = np.full((times, times), -np.inf)
    for source in range(times):
        std = max(source, times - source) / std_divisor
        cdf = [0.5 * (1 + math.erf((edge - 0.5 - source) / (std * math.sqrt(2)))) for edge in range(times + 1)]
        mass = np.maximum(np.diff(cdf), np.finfo(float).tiny)  # far tails underflow; they stay legal
        mass[source] = 0.0
        with np.errstate(divide="ignore"):
            table[source] = np.log(mass / mass.sum())
    return table


def draw_candidates(
    key: jax.Array,
    hierarchy: Hierarchy,
    *,
    batch: int,
    places: int,
    tokens: int,
    for_every_edge: bool = True,
) -> Candidates:
    """Draw the candidates of a step; a pure function of `key`.

    Args:
      key: random key of the step.
      hierarchy: its sizes and edges.
      batch: B, over all devices.
      places: how many places of a frame at most.
      for_every_edge: also draw tokens where the target level has several a video, which compete themselves.
      tokens: K, tokens of the batch for each edge; 0 for none. Fewer where predictions are many: what is held at once
        is linear in the tokens of a batch, whatever K.
    """
    place_key, token_key = jax.random.split(key)
    order = jax.random.permutation(place_key, hierarchy.patches_per_frame)
    drawn = {}
    for index, edge in enumerate(hierarchy.edges) if tokens else ():
        states = edge.relation == "up" and edge.target in hierarchy.causal
        if not for_every_edge and (states or hierarchy.num_tokens(edge.target) > 1):
            continue
        limits = jnp.array([batch, hierarchy.num_tokens(edge.source if states else edge.target)])
        count = max(1, min(tokens, _MAX_COSINES // (batch * hierarchy.num_tokens(edge.source))))
        drawn[str(edge)] = jax.random.randint(jax.random.fold_in(token_key, index), (count, 2), 0, limits)
    return Candidates(order[:places], drawn)
