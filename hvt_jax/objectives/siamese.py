"""Two views of a video, embedded by the whole hierarchy, that should agree (method `vicreg`)."""

from typing import NamedTuple

import jax

from hvt_jax.objectives.distances import vicreg
from hvt_jax.settings import ObjectiveSettings


class SiameseLoss(NamedTuple):
    """Loss of a step, and the embeddings [B, 1, D] of the two views for monitors."""

    total: jax.Array
    embeddings: tuple[jax.Array, jax.Array]


def embed(
    pyramid,
    projector,
    video: jax.Array,
    *,
    train: bool,
    valid: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Return the projected token of the top level, [B, 1, D]; no gradient is stopped on the way.

    Args:
      pyramid: the model; the prediction edges are not asked.
      projector: `model.predictor.make_projector`, of the top level's width.
      video: float [B, T, Y, X, 3], normalised.
      train: use batch statistics and update the running ones.
      valid: bool [B]; examples that are False do not count in the statistics.
      key: for dropout; None switches it off.
    """
    outputs = pyramid(video, train=train, valid=valid, key=key, isolated=False, last_state=-1)
    return projector(outputs[pyramid.hierarchy.levels[-1]].tokens, {}, train=train, valid=valid)


def siamese_loss(
    pyramid,
    projector,
    views: tuple[jax.Array, jax.Array],
    settings: ObjectiveSettings,
    *,
    train: bool,
    valid: jax.Array | None = None,
    keys: tuple[jax.Array | None, jax.Array | None] = (None, None),
) -> SiameseLoss:
    """Return VICReg's loss between two views of the same videos, with gradients into both.

    BatchNorm takes the statistics of each view apart, and its running ones move twice: by the first
    view, then by the second. Source: VICReg, Bardes et al. 2022, equation 6. The original divides the
    covariance by the configured batch size less one, whatever the batch holds; here it is the number of
    valid videos less one, which is the same on every full batch.

    Args:
      pyramid: the model.
      projector: see `embed`.
      views: two videos [B, T, Y, X, 3], normalised.
      settings: invariance, variance and covariance weights; its `distance` is not read.
      train: use batch statistics and update the running ones.
      valid: bool [B]; examples that are False count neither in the statistics nor in the loss.
      keys: for dropout in each view.
    """
    first = embed(pyramid, projector, views[0], train=train, valid=valid, key=keys[0])
    second = embed(pyramid, projector, views[1], train=train, valid=valid, key=keys[1])
    return SiameseLoss(vicreg(settings, first, second, valid), (first, second))
