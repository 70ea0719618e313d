"""What a run has learned, to be used: its model at the best or the last checkpoint, and the same one untrained."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hvt_jax.engine import compilation, program_cache, sharding, steps
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import results
from hvt_jax.run import leaves, run_data, seals
from hvt_jax.run.checkpoint import Checkpoints
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import Settings, SettingsError, older, read_settings

Tree = dict[str, Any]
_HEAD = "params/head/bias"  # of methods that name classes


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model with its parameters.

    Attributes:
      source: the folder it comes from.
      step: updates it has had.
      settings: of the run.
      definition: of the model.
      params: on all devices.
      stats: running statistics, on all devices.
    """

    source: str
    step: int
    settings: Settings
    definition: Definition
    params: Tree = dataclasses.field(repr=False)
    stats: Tree = dataclasses.field(repr=False)

    @property
    def levels(self) -> tuple[str, ...]:
        """The trained levels, the lowest first."""
        return self.definition.hierarchy.levels

    @property
    def digest(self) -> str:
        """SHA-256 of parameters and statistics."""
        return leaves.parameter_digest({"params": self.params, "stats": self.stats})

    def choose_levels(self, names: str) -> tuple[str, ...]:
        """Return the levels that a comma-separated list names, the lowest first; all for "all" and for "".

        Raises:
          SettingsError: for one that the model has not.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip() not in ("", "all")] or list(self.levels)
        for name in wanted:
            if name not in self.levels:
                raise SettingsError(f"--levels={names}: the model has no level {name!r}, but {', '.join(self.levels)}")
        return tuple(level for level in self.levels if level in wanted)

    def untrained(self) -> "Trained":
        """Return the same model as it was before its first step."""
        params, stats = jax.jit(lambda: steps.initial_variables(self.definition, jax.random.key(self.settings.seed)))()
        return dataclasses.replace(self, step=0, **_placed(self.settings, params, stats))

    def compile(self, build: Callable[[Definition], Callable] = steps.build_encode) -> Callable:
        """Return `encode(batch)`, compiled: `build(definition)` on `video`, beside the other fields of a batch.

        Args:
          build: returns `f(params, stats, video) -> dict`, such as `steps.build_encode`.

        Returns:
          a function of this process's share of a batch, numpy arrays; its arrays are whole on every process.
        """
        mesh = sharding.make_mesh(self.settings.train)
        encode = compilation.compile_encode(build(self.definition), mesh)
        return lambda batch: encode(self.params, self.stats, sharding.to_devices(batch, mesh))


def open_run(folder: str | os.PathLike, which: str = "best") -> Trained:
    """Return the model of the run in `folder`, without touching the folder.

    Args:
      folder: of a run, which may still be going on.
      which: "best" by `checkpoint.best_metric`, "last", or the number of a step.

    Raises:
      CheckpointError: if there is no run, no such checkpoint, or none that can be trusted.
      SettingsError: if its config is not of this version.
    """
    folder = os.path.abspath(folder)
    settings, checkpoints = read_config(folder), os.path.join(folder, "checkpoints")
    # The folder that a run names is its owner's, and may hold anything; only that nothing shall be kept is heeded.
    none = settings.train.compilation_cache == program_cache.NONE
    program_cache.keep_programs(program_cache.NONE if none else program_cache.AUTO)
    step = _choose(folder, checkpoints, settings, which)
    record = seals.read_manifest(checkpoints, step)
    bias = record["leaves"].get(_HEAD, "[0]")
    definition = steps.define(settings, int(bias.partition("[")[2].rstrip("]")))
    shapes = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    abstract = _placed(settings, *shapes)
    with Checkpoints(checkpoints, settings.checkpoint, best_metric="", warn=lambda _: None, read_only=True) as saved:
        _, state, _ = saved.restore(abstract, step, partial=True)
    return Trained(folder, step, settings, definition, **state)


def read_config(folder: str | os.PathLike) -> Settings:
    """Return the settings in `folder/config.json`.

    Raises:
      CheckpointError: if there is none that can be read.
      SettingsError: if it is not of this version.
    """
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = ConfigDict(older.complete(json.load(file)))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise CheckpointError(f"{path}: {reason}; give the folder of a run, such as runs/digits") from error
    try:
        return read_settings(config)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _choose(folder: str, checkpoints: str, settings: Settings, which: str) -> int:
    """Return the step of a checkpoint whose files agree with their seal."""
    known = seals.steps_in(checkpoints) if os.path.isdir(checkpoints) else []
    sound = [step for step in known if (which in ("best", "last") or str(step) == which)]
    if not sound:
        wanted = "checkpoint" if which in ("best", "last") else f"checkpoint of step {which!r}"
        raise CheckpointError(f"{folder} has no {wanted}; there are {known or 'none'}")
    if which == "best":
        sound.sort(key=lambda step: (_score(folder, checkpoints, settings, step), step))
    faults = {}
    for step in reversed(sound):
        if (fault := seals.distrust(checkpoints, step)) is None:
            return step
        faults[step] = fault
    raise CheckpointError(f"{folder}: {'; '.join(f'checkpoint {step}: {why}' for step, why in faults.items())}")


def _score(folder: str, checkpoints: str, settings: Settings, step: int) -> float:
    """Return the metric by which the best checkpoint is chosen; less than any where it was not evaluated."""
    metrics = (seals.read_manifest(checkpoints, step) or {}).get("metrics", {})
    name = settings.checkpoint.best_metric
    if not name:
        label_sets = run_data.read_label_sets(folder)
        name = results.metric_name("linear", settings.model.levels[-1], label_sets[0] if label_sets else "")
    value = metrics.get(name, -math.inf)
    return value if isinstance(value, (int, float)) else -math.inf


def _placed(settings: Settings, params: Tree, stats: Tree) -> dict[str, Tree]:
    """Return both on all devices: arrays as they are placed, shapes as they shall be."""
    whole = sharding.replicated(sharding.make_mesh(settings.train))

    def place(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
        return jax.device_put(np.asarray(leaf), whole)

    return {"params": jax.tree.map(place, params), "stats": jax.tree.map(place, stats)}
