"""How far a prediction is from its target, as one number over the valid videos of a batch.

Every distance takes prediction [B, N, D], target [B, N, D] or [B, 1, D] and valid, bool [B] or [B, N] or None for
all, and computes in at least float32. None of them stops a gradient; `objectives.local` does.
"""

import jax
import jax.numpy as jnp

from hvt_jax.objectives import regularizers
from hvt_jax.settings import ObjectiveSettings

COSINE_EPSILON = 1e-8  # smallest product of norms, as in torch


def distance(
    settings: ObjectiveSettings,
    prediction: jax.Array,
    target: jax.Array,
    valid: jax.Array | None,
    *,
    regularize_target: bool = True,
) -> jax.Array:
    """Return the distance named by `settings.distance`, a scalar averaged over valid rows.

    Args:
      settings: names the distance and holds its constants.
      prediction: [B, N, D].
      target: [B, N, D], or [B, 1, D] shared by all predictions of a video.
      valid: bool [B] or [B, N], or None for all.
      regularize_target: vicreg only: whether the target's variance and covariance count as well.
    """
    prediction, target = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (prediction, target))
    if settings.distance == "vicreg":
        return vicreg(settings, prediction, target, valid, regularize_target=regularize_target)
    return masked_mean(row_distances(settings, prediction, target), valid)


def row_distances(settings: ObjectiveSettings, prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Return the distance of every prediction on its own, [B, N]; of `vicreg` its invariance term, which has one.

    Arguments as in `distance`.
    """
    prediction, target = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (prediction, target))
    return {
        "mse": lambda: jnp.square(prediction - target).mean(-1),
        "smooth_l1": lambda: _huber(prediction - target).mean(-1),
        "cosine": lambda: settings.cosine_scale * (1 - cosine_similarity(prediction, target)),
        "cross_entropy": lambda: _cross_entropy(settings, prediction, target),
        "vicreg": lambda: settings.invariance_weight * jnp.square(prediction - target).mean(-1),
    }[settings.distance]()


def masked_mean(rows: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Return the mean of `rows` [B, ...] over what is valid, bool or weights [B] or [B, N]; 0 if nothing is."""
    if valid is None:
        return rows.mean()
    weight = valid.reshape(*valid.shape, *(1,) * (rows.ndim - valid.ndim)).astype(rows.dtype)
    total = weight.sum() * (rows.size // weight.size)
    return (jnp.where(weight > 0, rows, 0) * weight).sum() / jnp.where(total > 0, total, 1)


def cosine_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the cosine between the last axes of `a` and `b`, with finite gradients at zero vectors."""
    product = (a * b).sum(-1)
    squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
    return product * jax.lax.rsqrt(jnp.maximum(squares, COSINE_EPSILON**2))


def _huber(error: jax.Array) -> jax.Array:
    # The branch-free form of smooth L1 with threshold 1: quadratic inside, linear outside.
    clipped = jnp.clip(error, -1.0, 1.0)
    return clipped * (error - 0.5 * clipped)


def _cross_entropy(settings: ObjectiveSettings, prediction: jax.Array, target: jax.Array) -> jax.Array:
    wanted = jax.nn.softmax(target / settings.target_temperature)
    given = jax.nn.softmax(prediction / settings.prediction_temperature)
    return -(wanted * jnp.log(given + settings.cross_entropy_epsilon)).sum(-1)


def vicreg(
    settings: ObjectiveSettings,
    prediction: jax.Array,
    target: jax.Array,
    valid: jax.Array | None,
    *,
    regularize_target: bool = True,
) -> jax.Array:
    """Return VICReg's three terms on a pair (Bardes et al. 2022, eq. 6); arguments as in `distance`.

    A shared target [B, 1, D] keeps its own rows, not repeated for the predictions that share it, so its
    statistics are those of what it really is.
    """
    prediction, target = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (prediction, target))
    invariance = masked_mean(jnp.square(prediction - target).mean(-1), valid)
    epsilon = settings.variance_epsilon
    variance, covariance = regularizers.variance_covariance(prediction, valid, epsilon)
    if regularize_target:
        if valid is not None and valid.ndim == 2 and target.shape[1] == 1:  # one target that all predictions share
            valid = valid.any(axis=1)
        target_variance, target_covariance = regularizers.variance_covariance(target, valid, epsilon)
        variance = 0.5 * (variance + target_variance)
        covariance = covariance + target_covariance
    return (
        settings.invariance_weight * invariance
        + settings.variance_weight * variance
        + settings.covariance_weight * covariance
    )
