"""What the token of a level attends to: the last layer's weights over patches, frames and clips."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.hierarchy import encoded_levels


def build_attention(definition: Definition) -> Callable[[dict, dict, jax.Array], dict[str, jax.Array]]:
    """Return `attention(params, stats, video) -> {level: float32 [B, G, H, M]}` of all levels with a transformer.

    How much of each of the M members of a group (patches of a frame, frames of a clip, clips of the sequence) each of
    the H heads of the last layer takes into the group's token; by the class token, or, in a causal level, by the state
    that is the token. See `model.level.Level.attention`. `video` is uint8 [B, T, Y', X', 3], of which the middle is
    taken. Source: the class token's maps of DINO (Caron et al. 2021, figure 1).
    """
    last_state = definition.method.last_state

    def attention(params, stats, video):
        video = steps.prepare_evaluation(definition, video)
        model = state_lib.merge(definition.graphdef, params, stats)
        tokens, _ = model.stem(video, train=False)
        found = {}
        for name in encoded_levels(definition.hierarchy.levels):
            level = model.levels[name]
            found[name] = level.attention(tokens, last_state=last_state).astype(jnp.float32)
            tokens = level(tokens, train=False, last_state=last_state).tokens
        return found

    return attention
