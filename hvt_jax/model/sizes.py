"""Views that are larger or smaller than what a model is made for: its positions are resampled for them."""

import jax
import jax.numpy as jnp

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.pyramid import OtherSize, Pyramid

Grid = tuple[int, ...]  # rows and columns of the patches of a frame, or how many members there are in time


def other_size(pyramid: Pyramid, hierarchy: Hierarchy, patches: tuple[Grid, Grid]) -> OtherSize:
    """Return what `pyramid` needs to encode videos of the size of `hierarchy`, with gradients into its positions.

    Args:
      pyramid: the model.
      hierarchy: sizes of the other videos, at the same levels.
      patches: rows and columns of patches that a frame has in the model's own videos, and in the others.
    """
    own, positions = pyramid.hierarchy, {}
    for name in hierarchy.levels:
        if name == "patch" or (name == "frame" and patches[0] == patches[1]):
            continue
        grids = patches if name == "frame" else ((own.num_members(name),), (hierarchy.num_members(name),))
        if grids[0] != grids[1]:
            level = pyramid.levels[name]
            positions[name] = resample(level.positions(jnp.float32), *grids, class_token=not level.causal)
    return OtherSize(hierarchy, positions)


def resample(table: jax.Array, before: Grid, after: Grid, *, class_token: bool) -> jax.Array:
    """Return the vectors of the members on another grid, resampled linearly; that of a class token stays in front.

    Source: the interpolated positions of DINO (Caron et al. 2021) and SVT (Ranasinghe et al. 2022), cubic there.

    Args:
      table: [M, D], or [1 + M, D] with a class token.
      before: its grid; the numbers multiply to M.
      after: the grid asked for.
      class_token: whether the first row is its position.
    """
    first, rest = (table[:1], table[1:]) if class_token else (table[:0], table)
    width = table.shape[1]
    resized = jax.image.resize(rest.reshape(*before, width), (*after, width), "linear")
    return jnp.concatenate([first, resized.reshape(-1, width)])
