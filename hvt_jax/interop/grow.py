"""From a trained model to a larger one: longer clips, more levels (a step of a curriculum)."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hvt_jax.interop import resampling

Tree = dict[str, Any]
Path = tuple[str, ...]


class GrowthReport(NamedTuple):
    """What became of every array, as '/'-joined paths in the order of the trees.

    Attributes:
      copied: equal to the old one.
      grown: tables of another length or grid, with the old rows that have a place in them, or resampled from them.
      new: as initialised, because the old model has none of this path or none of this shape.
      dropped: paths of the old model that the new one has not.
    """

    copied: list[str]
    grown: list[str]
    new: list[str]
    dropped: list[str]


class Grids(NamedTuple):
    """Rows and columns of a frame's patches, of the old model and of the new one."""

    old: tuple[int, int]
    new: tuple[int, int]


def grow_variables(
    old_params: Tree, old_stats: Tree, new_params: Tree, new_stats: Tree, *, grids: Grids | None = None
) -> tuple[Tree, Tree, GrowthReport]:
    """Return (parameters, statistics, report): the new model's, with what fits of the old one put in.

    Arrays go by their path. Tables that follow time get the old vectors as far as both reach: positions
    of clips and sequences (the class token's first) and codes of members and groups their first rows, as
    in the original; codes of distances the rows *of the same distance*, which first rows would not be. A
    member code that now shares its width with a group code keeps its first columns, as in the original.
    Tables of a frame's patches do not grow: a row number of another grid is another place.

    With `grids` tables are resampled instead (`resampling`): the new ones cover the same stretch of time and the same
    picture with more or fewer rows. Positions and codes of members follow time in clips and sequences, and in a frame
    its grid of patches, codes of groups time, codes of distances the farther or nearer times; class tokens stay.

    Args:
      old_params: of the trained model, nested dicts by path.
      old_stats: its running statistics.
      new_params: of the larger model, freshly initialised; tells shapes and dtypes.
      new_stats: its running statistics.
      grids: resample, and where patches lie; None = rows stay what they are.
    """
    report = GrowthReport([], [], [], [])
    old = dict(_leaves(old_params)) | dict(_leaves(old_stats))
    left = dict(old)

    def fill(tree: Tree, path: Path = ()) -> Tree:
        return {
            key: fill(value, (*path, key)) if isinstance(value, dict) else carry((*path, key), np.asarray(value))
            for key, value in tree.items()
        }

    def carry(path: Path, fresh: np.ndarray) -> np.ndarray:
        trained = left.pop(path, None)
        if trained is not None and trained.shape == fresh.shape and not _lies_elsewhere(path, grids):
            report.copied.append("/".join(path))
            return trained.astype(fresh.dtype)
        grown = None if trained is None else _grown(path, trained, fresh, old, new_params, grids)
        (report.new if grown is None else report.grown).append("/".join(path))
        return fresh if grown is None else grown

    params, stats = fill(new_params), fill(new_stats)
    report.dropped.extend("/".join(path) for path in left)
    return params, stats, report


def _leaves(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), np.asarray(value)


def _lies_elsewhere(path: Path, grids: Grids | None) -> bool:
    """Whether a table of patches is for another grid, be it of as many patches."""
    return grids is not None and grids.old != grids.new and _is_of_patches(path)


def _is_of_patches(path: Path) -> bool:
    return path[:2] == ("levels", "frame") and path[-2:] in (("positions", "table"), ("member", "table"))


def _grown(
    path: Path,
    trained: np.ndarray,
    fresh: np.ndarray,
    old: dict[Path, np.ndarray],
    new_params: Tree,
    grids: Grids | None,
) -> np.ndarray | None:
    """Return `fresh` with the vectors of `trained` that mean the same in it, or None if `path` is no such table."""
    if path[-1] != "table" or path[0] != "levels":
        return None
    level, kind = path[1], path[-2]
    # A frame's members are patches: their number, unlike a time, is no place in another grid.
    if kind == "class_token" or (grids is None and _is_of_patches(path)):
        return None
    if kind != "member" and trained.shape[1] != fresh.shape[1]:
        return None
    # With a class token row 0 is its own, without one it is the first member's.
    had, has = ("levels", level, "class_token", "table") in old, "class_token" in new_params["levels"][level]
    if kind == "positions" and had != has:
        return None
    grown, columns = fresh.copy(), min(trained.shape[1], fresh.shape[1])
    if grids is not None:
        own = int(kind == "positions" and has)
        grown[:own, :columns] = trained[:own, :columns]
        resampled = _resampled(path, trained[own:], len(fresh) - own, grids)
        grown[own:, :columns] = resampled[:, :columns]
        return grown
    # Distances -(N-1)..-1 and 1..N-1 lie around the middle of their table.
    shift = (len(fresh) - len(trained)) // 2 if kind == "distance" else 0
    rows = min(len(trained), len(fresh))
    from_row, to_row = max(-shift, 0), max(shift, 0)
    grown[to_row : to_row + rows, :columns] = trained[from_row : from_row + rows, :columns]
    return grown


def _resampled(path: Path, trained: np.ndarray, length: int, grids: Grids) -> np.ndarray:
    if _is_of_patches(path):
        return resampling.resample_grid(trained, *grids)
    if path[-2] == "distance":
        return resampling.resample_distances(trained, length)
    return resampling.resample(trained, length)
