"""Terms that keep the tokens of a level from collapsing, whatever its predictions do."""

import jax
import jax.numpy as jnp

TARGET_DEVIATION = 1.0


def variance_covariance(tokens: jax.Array, valid: jax.Array | None, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Return VICReg's variance and covariance terms of tokens [B, N, D] over all valid rows.

    The statistics are over the *global* batch under jit. Variance: mean over features of
    relu(1 - sqrt(var + epsilon)), unbiased. Covariance: sum of squares of the off-diagonal entries of the
    covariance matrix over D. Source: VICReg, Bardes et al. 2022, equations 1-4.

    Args:
      tokens: [B, N, D].
      valid: bool [B] or [B, N], or None for all.
      epsilon: keeps the gradient finite where a feature does not vary; VICReg has 1e-4.

    Returns:
      (variance, covariance): float32 scalars, finite also when fewer than two rows are valid.
    """
    tokens_BND = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    width = tokens_BND.shape[-1]
    count = tokens_BND.size // width
    if valid is not None:
        weight_BN = valid if valid.ndim == 2 else valid[:, None]
        weight_BN1 = jnp.broadcast_to(weight_BN, tokens_BND.shape[:-1])[..., None].astype(tokens_BND.dtype)
        count = jnp.maximum(weight_BN1.sum(), 1.0)
        tokens_BND = jnp.where(weight_BN1 > 0, tokens_BND, 0)
    centred_BND = tokens_BND - tokens_BND.sum((0, 1)) / count
    if valid is not None:
        centred_BND = centred_BND * weight_BN1
    degrees = jnp.maximum(count - 1.0, 1.0)
    rows_RD = centred_BND.reshape(-1, width)
    covariance_DD = rows_RD.T @ rows_RD / degrees
    variance_D = jnp.diagonal(covariance_DD)
    variance = jax.nn.relu(TARGET_DEVIATION - jnp.sqrt(variance_D + epsilon)).mean()
    covariance = (jnp.square(covariance_DD).sum() - jnp.square(variance_D).sum()) / width
    return variance, covariance
