"""A run that does not start from nothing: parameters of an import, or of another run's export, at step 0."""

import collections
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hvt_jax.engine.state import TrainState
from hvt_jax.interop import grow, safetensors_io
from hvt_jax.run import leaves
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import Settings, SettingsError

# Where these differ the arrays fit all the same, and mean something else.
_SILENT = ("num_heads", "head_width", "qkv_bias", "norm_epsilon", "causal")
_LEVELS = ("frame", "clip", "sequence")
_SHOWN = 5  # arrays that are named
Tree = dict[str, Any]


def start_from(
    settings: Settings,
    state: TrainState,
    note: Callable[[str], object],
    *,
    grids: grow.Grids | None = None,
    keep: Callable[[list[str]], object] = lambda _: None,
) -> TrainState:
    """Return the state of step 0 with the arrays of `model.initial_weights` in the place of its own.

    Arrays go by their path and shape, tables that follow time grow (`grow.grow_variables`); the rest stays fresh, and
    so does the optimizer. A table says what became of every level. With several processes all must call it.

    Args:
      settings: of the run.
      state: fresh; wherever it is placed, the new one is placed, too.
      note: is told the lines of the table.
      grids: resample tables, see `grow.grow_variables`.
      keep: is given `array_lines`.

    Raises:
      CheckpointError: if the file cannot be read, or nothing in it fits.
      SettingsError: if the weights were made with other settings that no shape shows.
    """
    path = settings.model.initial_weights
    old = safetensors_io.load_variables(path)
    _check_settings(path, settings)
    fresh = jax.tree.map(_whole, (state.params, state.stats))
    params, stats, report = grow.grow_variables(*old, *fresh, grids=grids)
    if not report.copied:
        raise CheckpointError(f"{path}: none of its {len(report.dropped)} arrays has a place and shape in this model")
    for line in table(path, report, set(_flat(old[0])) | set(_flat(old[1]))):
        note(line)
    keep(array_lines(report, old, fresh))
    placed = jax.tree.map(_placed, (params, stats), (state.params, state.stats))
    # A teacher begins as what it follows; the rest of a method's memory is as it was.
    memory = {name: _refreshed(part, placed[0]) if name == "params" else part for name, part in state.memory.items()}
    return state.replace(params=placed[0], stats=placed[1], memory=memory)


def _check_settings(path: str, settings: Settings) -> None:
    """Raise SettingsError where the config beside the weights says otherwise than `settings`."""
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    try:
        with open(beside, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return  # the weights alone
    if found := silent_difference(content, settings):
        field, here, there = found
        raise SettingsError(
            f"config.{field} = {here}, but {path} is of a model with {there}; set --config.{field}='{there}'"
        )


def silent_difference(content: Any, settings: Settings) -> tuple[str, Any, Any] | None:
    """Return the first field that no shape shows and in which `settings` differ from the config of other weights.

    Args:
      content: that config, of an import, which is flat, or of an export; levels it has not are passed over.
      settings: of what is to be trained.

    Returns:
      (field, its value in `settings`, that in `content`), or None.
    """
    before = _find(content, "model.hierarchy")
    known = before.split("-") if isinstance(before, str) else _LEVELS
    levels = [level for level in _LEVELS if level in settings.model.levels and level in known]
    fields = [f"model.{level}.{name}" for level in levels for name in _SILENT]
    for field in (*fields, "data.mean", "data.std"):
        there, here = _find(content, field), settings
        for part in field.split("."):
            here = getattr(here, part)
        there = tuple(there) if isinstance(there, list) else there
        if there is not None and there != here:
            return field, here, there
    return None


def _find(content: Any, field: str) -> Any:
    """Return a field of the config of an import, which is flat, or of an export; None if it is not there."""
    if not isinstance(content, dict):
        return None
    node = content.get("config", content)
    if field in node:
        return node[field]
    for part in field.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def array_lines(report: grow.GrowthReport, old: tuple[Tree, Tree], new: tuple[Tree, Tree]) -> list[str]:
    """Return a line for every array of the new model, in its order, then those of the old one that have no place.

    Such as `grown   levels/clip/positions/table  float32[3,96] -> float32[5,96]`; copied | grown | new | unused.

    Args:
      report: from `grow.grow_variables`.
      old: its parameters and statistics, before.
      new: those of the new model, or their shapes.
    """
    before, after = (leaves.describe(_flat(params) | _flat(stats)) for params, stats in (old, new))
    what = {name: kind for kind, names in report._asdict().items() for name in names}
    shapes = {name: f"{before[name]} -> {after[name]}" for name in report.grown}
    rows = [(what[name], name, shapes.get(name, shape)) for name, shape in after.items()]
    rows += [("unused", name, before[name]) for name in report.dropped]
    width = max(len(name) for _, name, _ in rows)
    return [f"{kind:6}  {name:{width}}  {shape}" for kind, name, shape in rows]


def table(path: str, report: grow.GrowthReport, known: set[str]) -> list[str]:
    """Return, for every level and its predictors, how many arrays were copied, grown, stayed fresh or have no place.

    What the file knows, but in another shape, is named.
    """
    counts: dict[str, collections.Counter] = {}
    for what, paths in report._asdict().items():
        for name in paths:
            counts.setdefault(_part(name), collections.Counter())[what] += 1
    width = max(map(len, counts))
    lines = [f"starting from {path}; arrays", f"  {'':{width}}  copied  grown  fresh  unused"]
    lines += [
        f"  {part:{width}}  {found['copied']:6}  {found['grown']:5}  {found['new']:5}  {found['dropped']:6}"
        for part, found in sorted(counts.items())
    ]
    other = [name for name in report.new if name in known]
    reasons = {"unused, as this model has no such array": report.dropped, "fresh, as the file has another shape": other}
    for reason, names in reasons.items():
        if names:
            lines.append(f"  {reason}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}")
    return lines


def _flat(tree: Tree) -> dict[str, Any]:
    return leaves.flatten(tree)


def _part(path: str) -> str:
    first, *rest = path.split("/")
    if first != "levels":
        return first
    return f"{rest[0]}/predictors" if rest[1:2] == ["predictors"] else rest[0]


def _refreshed(teacher: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return copies of those parts of `params` that `teacher` has: both will be donated."""
    return {name: jax.tree.map(jax.numpy.copy, params[name]) for name in teacher}


def _whole(leaf: jax.Array) -> np.ndarray:
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _placed(array: np.ndarray, like: jax.Array) -> jax.Array:
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: array[index])
