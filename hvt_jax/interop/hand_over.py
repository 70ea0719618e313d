"""What a run has learned, put into the beginning of the next one, which has other levels, lengths and frames."""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from hvt_jax import disk
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.interop import grow, safetensors_io, start
from hvt_jax.run import leaves, run_folder, trained
from hvt_jax.run.loop import StartFrom
from hvt_jax.run.run_folder import RunFolderError
from hvt_jax.settings import Settings, SettingsError
from hvt_jax.settings.curriculum import Grow
from hvt_jax.settings.geometry import patch_pixels

FOLDER = "initial"  # in the folder of the run that begins
ARRAYS = os.path.join(FOLDER, "arrays.txt")
_WEIGHTS, _CONFIG, _SOURCE = "model.safetensors", "config.json", "source.json"


class Expected(NamedTuple):
    """What will become of the arrays of a run that begins with those of another.

    Attributes:
      table: lines for the screen, by level.
      arrays: a line for every array.
    """

    table: list[str]
    arrays: list[str]


def hand_over(before: str, which: str, folder: str) -> str:
    """Write the weights of the run `before` for the run in `folder`, unless they are there; return their path.

    They lie in `initial/`, beside a `config.json` that says what they are. The weights come last, so that they are
    there only with it; once they are, a later change of `before` changes nothing.

    Args:
      before: folder of a run that is done.
      which: "best" or "last" checkpoint.
      folder: of the run that begins.

    Raises:
      CheckpointError: if there is no checkpoint that can be trusted.
      RunFolderError: if the folder cannot be written.
    """
    own = pathlib.Path(folder, FOLDER)
    path = own / _WEIGHTS
    if path.exists():
        return str(path)
    model = trained.open_run(before, which)
    facts = {"source": os.path.basename(os.path.normpath(before)), "checkpoint": which, "step": model.step}
    with disk.refusals_as(RunFolderError, own, run_folder.ELSEWHERE):
        own.mkdir(parents=True, exist_ok=True)
        disk.write_file(own / _CONFIG, pathlib.Path(before, "config.json").read_bytes())
        run_folder.write_json(str(own / _SOURCE), facts | {"digest": model.digest})
        safetensors_io.save_variables(path, *(jax.tree.map(np.asarray, tree) for tree in (model.params, model.stats)))
    return str(path)


def starter(before: Settings, settings: Settings, how: Grow, folder: str) -> StartFrom:
    """Return what puts the weights of a run with the settings `before` into the state of step 0 of the next run.

    Args:
      before: of the run whose weights they are.
      settings: of the run that begins.
      how: "rows" | "interpolate", see `grow.grow_variables`.
      folder: of the run that begins; a line for every array is written to `initial/arrays.txt` there.
    """

    def keep(lines: list[str]) -> None:
        run_folder.write_file(os.path.join(folder, ARRAYS), ("\n".join(lines) + "\n").encode())

    return functools.partial(start.start_from, grids=_grids(before, settings, how), keep=keep)


def expect(before: Definition, after: Definition, how: Grow, name: str) -> Expected:
    """Return what will become of the arrays of `after` where those of `before` are handed over; nothing is trained.

    Args:
      before: of the run whose weights they are.
      after: of the run that begins.
      how: "rows" | "interpolate".
      name: of the run before, for the table.

    Raises:
      SettingsError: if no shape would show that the two models differ, or nothing of the old one fits.
    """
    check(before.settings, after.settings, name)
    old, new = (_zeros(definition) for definition in (before, after))
    *_, report = grow.grow_variables(*old, *new, grids=_grids(before.settings, after.settings, how))
    if not report.copied:
        raise SettingsError(f"none of the {len(report.dropped)} arrays of stage {name} has a place and shape in it")
    known = leaves.flatten(old[0]).keys() | leaves.flatten(old[1]).keys()
    return Expected(start.table(f"stage {name}", report, known), start.array_lines(report, old, new))


def check(before: Settings, settings: Settings, name: str) -> None:
    """Raise SettingsError where weights of `before`, of the stage `name`, would mean something else in `settings`."""
    if found := start.silent_difference(dataclasses.asdict(before), settings):
        field, here, there = found
        raise SettingsError(
            f"config.{field} = {here}, but stage {name}, whose weights it begins with, has {there}; make them the same"
        )


def read_source(folder: str) -> dict[str, Any]:
    """Return `source`, `checkpoint`, `step` and `digest` of the weights that the run in `folder` began with."""
    return json.loads(pathlib.Path(folder, FOLDER, _SOURCE).read_text(encoding="utf-8"))


def _grids(before: Settings, settings: Settings, how: Grow) -> grow.Grids | None:
    return grow.Grids(_grid(before), _grid(settings)) if how == "interpolate" else None


def _grid(settings: Settings) -> tuple[int, int]:
    side = patch_pixels(settings.model)
    return settings.data.height // side, settings.data.width // side


def _zeros(definition: Definition) -> tuple[dict, dict]:
    """Return parameters and statistics of the right shapes, which cost next to nothing until they are changed."""
    shapes = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)
