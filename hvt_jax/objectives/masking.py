"""Which patches of a video a masked method sees: the same places in all frames, as many in every video."""

import jax
import jax.numpy as jnp

_BLOCK_RATIO = (0.75, 1.5)  # rows over columns of a block, as in V-JEPA
_MASKED = 2.0  # more than any tie-break


def count_seen(places: int, mask_ratio: float) -> int:
    """Return how many of the patches of a frame are seen: at least one, and not all."""
    return min(max(1, round(places * (1 - mask_ratio))), places - 1)


def random_places(key: jax.Array, batch: int, places: int, seen: int) -> tuple[jax.Array, jax.Array]:
    """Return the places that are seen and those that are masked, int32 [B, seen] and [B, places - seen], at random.

    The tubes of VideoMAE (Tong et al. 2022).
    """
    return _split(jax.random.uniform(key, (batch, places)), seen)


def block_places(
    key: jax.Array, batch: int, grid: tuple[int, int], *, blocks: int, area: float, seen: int
) -> tuple[jax.Array, jax.Array]:
    """Return the places that are seen and masked, as `random_places`, the masked ones in blocks that may overlap.

    Source: V-JEPA (Bardes et al. 2024), whose blocks cover a share that varies. Here a batch needs one number: places
    outside all blocks are seen first, then some inside, or are masked where there are too many.

    Args:
      key: random.
      batch: B, videos.
      grid: rows and columns of patches.
      blocks: how many, each of all frames.
      area: share of the frame that a block covers.
      seen: how many places are seen.
    """
    rows, columns = grid
    keys = jax.random.split(key, 4)
    low, high = jnp.log(jnp.array(_BLOCK_RATIO))
    ratio = jnp.exp(jax.random.uniform(keys[0], (batch, blocks), minval=low, maxval=high))
    height = jnp.clip(jnp.round(jnp.sqrt(area * rows * columns * ratio)), 1, rows)
    width = jnp.clip(jnp.round(jnp.sqrt(area * rows * columns / ratio)), 1, columns)
    top = jnp.floor(jax.random.uniform(keys[1], (batch, blocks)) * (rows - height + 1))
    left = jnp.floor(jax.random.uniform(keys[2], (batch, blocks)) * (columns - width + 1))
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)
    between = lambda x, first, size: (x >= first[..., None, None]) & (x < (first + size)[..., None, None])  # noqa: E731
    covered_BYX = (between(row, top, height) & between(column, left, width)).any(1)
    noise = jax.random.uniform(keys[3], (batch, rows * columns))
    return _split(_MASKED * covered_BYX.reshape(batch, -1) + noise, seen)


def _split(scores: jax.Array, seen: int) -> tuple[jax.Array, jax.Array]:
    order = jnp.argsort(scores, axis=1)
    return jnp.sort(order[:, :seen], axis=1), jnp.sort(order[:, seen:], axis=1)
