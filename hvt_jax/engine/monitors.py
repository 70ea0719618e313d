"""Signs of collapse, per level, on tokens *before* their output norm.

A norm makes the variance of a collapsed level 1 again and hides it. The numbers are cheap enough for the
training step: a fixed number of tokens, no matrix larger than the width squared. `engine.alarms` reads them.
Beside them, per edge, the answers that need no learning: its loss over theirs is 1 where nothing was learned.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.hierarchy import LEVELS

# Eigenvalues of a float32 covariance are noise below some 2.5e-7 of the largest (measured up to width 768).
_EIGENVALUE_NOISE = 5e-7
# Spread below this share of the tokens' size is rounding: the tokens are all the same.
_SPREAD_NOISE = 1e-6
_TINY = 1e-12


def monitor_levels(tokens: Mapping[str, jax.Array], valid: jax.Array, num_rows: int) -> dict[str, jax.Array]:
    """Return `monitor/<level>/<name>` scalars of every level in `tokens`; names as in `monitor_rows`.

    Args:
      tokens: by level, [B, N, D] before the output norm, any float dtype. Gradients stop here.
      valid: bool [B], False for a video that could not be read.
      num_rows: most tokens looked at per level.
    """
    monitored = {}
    for level in LEVELS:
        if level in tokens:
            scores = monitor_rows(*choose_rows(tokens[level], valid, num_rows))
            monitored |= {f"monitor/{level}/{name}": score for name, score in scores.items()}
    return monitored


def choose_rows(tokens: jax.Array, valid: jax.Array, num_rows: int) -> tuple[jax.Array, jax.Array]:
    """Pick tokens evenly over a batch: the same positions at every step.

    Args:
      tokens: [B, N, D].
      valid: bool [B].
      num_rows: R, clipped to B·N.

    Returns:
      tokens [R, D] and whether each is of a valid video, bool [R].
    """
    batch, num_tokens, width = tokens.shape
    total = batch * num_tokens
    rows = np.arange(min(num_rows, total))
    # One token from each of R equal stretches, at a place in it that moves (by the golden ratio):
    # a constant place would pick the same few patches of every frame.
    index = ((rows + rows * 0.6180339887 % 1) * total / len(rows)).astype(np.int32)
    return tokens.reshape(total, width)[index], valid[index // num_tokens]


def monitor_rows(tokens: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Return the monitors of one level; finite for any finite input, 0 where there is nothing to measure.

    Args:
      tokens: [R, D] before the output norm.
      valid: bool [R]; other rows may hold anything.

    Returns:
      float32 scalars:
      `rank`: exp of the entropy of the singular values of the centred tokens (RankMe, arXiv 2210.02885,
        on centred rows): 1 if one direction is left, 0 if the tokens are all the same.
      `rank_share`: rank over the largest possible, min(D, valid rows - 1).
      `std`: standard deviation per feature, mean over features.
      `std_share`: the same of tokens scaled to length 1, over 1/sqrt(D): about 1 if they point everywhere.
      `cosine`: mean cosine of two different tokens: 1 if all point the same way.
    """
    tokens_RD = jnp.where(valid[:, None], jax.lax.stop_gradient(tokens).astype(jnp.float32), 0)
    count = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
    unit_RD = tokens_RD / jnp.maximum(jnp.linalg.norm(tokens_RD, axis=1, keepdims=True), _TINY)
    width = tokens.shape[1]
    rank = _effective_rank(tokens_RD, valid, count)
    return {
        "rank": rank,
        "rank_share": rank / jnp.clip(count - 1, 1, width),
        "std": _feature_std(tokens_RD, valid, count),
        "std_share": _feature_std(unit_RD, valid, count) * jnp.sqrt(jnp.float32(width)),
        "cosine": _mean_pair_cosine(unit_RD, count),
    }


def mean_target(target: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Return the mean target [D] of the predictions that count: what is best answered by who knows nothing.

    Args:
      target: [B, N, D] or [B, 1, D].
      weight: bool [B, N], or None for all.
    """
    target = jax.lax.stop_gradient(target).astype(jnp.float32)
    counts_BN = jnp.ones(target.shape[:2]) if weight is None else weight.astype(jnp.float32)
    if counts_BN.shape[1] != target.shape[1]:  # one target that all predictions of a video share
        counts_BN = counts_BN.max(axis=1, keepdims=True)
    return jnp.where(counts_BN[..., None] > 0, target, 0).sum(axis=(0, 1)) / jnp.maximum(counts_BN.sum(), 1)


def loss_ratio(loss: jax.Array, cost: jax.Array) -> jax.Array:
    """Return a loss over the loss of another answer to the same predictions.

    1 means that the prediction is worth no more; so does an answer that costs nothing, where this returns 1.

    Args:
      loss: of what was predicted, a scalar.
      cost: of the other answer, a scalar.
    """
    return jnp.where(cost > _TINY, loss / jnp.maximum(cost, _TINY), 1.0)


def _effective_rank(tokens_RD: jax.Array, valid: jax.Array, count: jax.Array) -> jax.Array:
    centred_RD = _centre(tokens_RD, valid, count)
    size, spread = (jnp.sqrt(jnp.square(x).sum() / (count * x.shape[1])) for x in (tokens_RD, centred_RD))
    same = spread <= _SPREAD_NOISE * size
    centred_RD = jnp.where(same, 0, centred_RD / jnp.where(same, 1, spread))  # no overflow in the square
    covariance_DD = jnp.matmul(centred_RD.T, centred_RD, precision="highest") / count
    eigenvalues_D = jnp.linalg.eigvalsh(covariance_DD)
    eigenvalues_D = jnp.where(eigenvalues_D > _EIGENVALUE_NOISE * eigenvalues_D[-1], eigenvalues_D, 0)
    singular_D = jnp.sqrt(eigenvalues_D)
    share_D = singular_D / jnp.maximum(singular_D.sum(), _TINY)
    return jnp.where(same, 0.0, jnp.exp(jax.scipy.special.entr(share_D).sum()))


def _centre(tokens_RD: jax.Array, valid: jax.Array, count: jax.Array) -> jax.Array:
    """Take the mean of the valid rows off them; invalid rows, which are 0, stay 0."""
    return jnp.where(valid[:, None], tokens_RD - tokens_RD.sum(axis=0) / count, 0)


def _feature_std(tokens_RD: jax.Array, valid: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(_centre(tokens_RD, valid, count)).sum(axis=0) / count).mean()


def _mean_pair_cosine(unit_RD: jax.Array, count: jax.Array) -> jax.Array:
    """Mean of all off-diagonal products: the square of the sum holds them all, and the diagonal."""
    pairs = jnp.square(unit_RD.sum(axis=0)).sum() - jnp.square(unit_RD).sum()
    return pairs / jnp.maximum(count * (count - 1), 1)
