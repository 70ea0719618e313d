"""Supervised training of the whole hierarchy at once: a linear head on the token of the top level."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hvt_jax.objectives.distances import masked_mean


def log_probabilities(
    pyramid,
    head: Callable[[jax.Array], jax.Array],
    video: jax.Array,
    *,
    train: bool,
    valid: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Return log probabilities [B, classes] of the classes, at least in float32.

    No gradient is stopped anywhere: the head's loss trains every level and the stem. A causal top level
    is read at its last state, which has seen all members; so is every causal level below.

    Args:
      pyramid: the model; the prediction edges are not asked.
      head: a map [B, D] -> [B, classes], such as a linear layer.
      video: float [B, T, Y, X, 3], normalised.
      train: use batch statistics and update the running ones.
      valid: bool [B]; examples that are False do not count in the statistics.
      key: for dropout; None switches it off.
    """
    outputs = pyramid(video, train=train, valid=valid, key=key, isolated=False, last_state=-1)
    logits_BK = head(outputs[pyramid.geometry.hierarchy[-1]].tokens[:, 0])
    return jax.nn.log_softmax(logits_BK.astype(jnp.promote_types(logits_BK.dtype, jnp.float32)))


def negative_log_likelihood(log_probs: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Return minus the mean log probability of the true classes over the valid videos; 0 if none is.

    Args:
      log_probs: [B, classes], from `log_probabilities`.
      labels: int [B]; of a video that is not valid it may be anything.
      valid: bool [B], or None for all.
    """
    # A label outside the classes (-1 of a damaged video) would gather NaN in some modes: clip, then mask.
    chosen_B = jnp.take_along_axis(log_probs, jnp.clip(labels, 0, log_probs.shape[-1] - 1)[:, None], axis=1)[:, 0]
    return -masked_mean(chosen_B, valid)
