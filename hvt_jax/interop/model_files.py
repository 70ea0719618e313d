"""The one way to open a trained model, wherever it lies: the folder of a run or that of an export."""

import json
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from hvt_jax.engine import sharding, steps
from hvt_jax.interop import safetensors_io
from hvt_jax.run import leaves, trained
from hvt_jax.run.seals import CheckpointError
from hvt_jax.run.trained import Trained
from hvt_jax.settings import SettingsError, older, read_settings

FORMAT = "hvt-jax-export/1"
VARIABLES_FILE, CONFIG_FILE = "model.safetensors", "config.json"


def open_model(path: str | os.PathLike, which: str = "best") -> Trained:
    """Return the model in a folder, without touching it.

    Args:
      path: of a run, which may still be going on, or of what `export` wrote.
      which: of a run "best", "last" or the number of a step; an export has one model only.

    Raises:
      CheckpointError: if there is no model there, or none that can be trusted.
      SettingsError: if its config is not of this version.
    """
    path = os.path.abspath(path)
    content = _read_description(os.path.join(path, CONFIG_FILE))
    if content is None:
        return trained.open_run(path, which)
    if which not in ("best", "last", str(content["step"])):
        raise CheckpointError(f"{path} is an export of step {content['step']}, and has no other")
    return _open_export(path, content)


def _read_description(path: str) -> dict[str, Any] | None:
    """Return what an export says of itself; None if this is none, so that `open_run` says what is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    if content and all("." in name for name in content):
        raise CheckpointError(
            f"{os.path.dirname(path)} holds imported weights, no trained model; start a run from them: "
            f"--config.model.initial_weights={os.path.join(os.path.dirname(path), VARIABLES_FILE)}"
        )
    kind = content.get("format")
    if not isinstance(kind, str):
        return None
    needed = {"step": int, "num_classes": int, "parameter_digest": str, "config": dict}
    if kind != FORMAT or any(type(content.get(name)) is not want for name, want in needed.items()):
        raise CheckpointError(f"{path}: is damaged, or an export of another version ({kind[:40]}); export it again")
    return content


def _open_export(path: str, content: dict[str, Any]) -> Trained:
    config, weights = os.path.join(path, CONFIG_FILE), os.path.join(path, VARIABLES_FILE)
    try:
        settings = read_settings(ConfigDict(older.complete(content["config"])))
    except SettingsError as error:
        raise SettingsError(f"{config}: {error}") from error
    definition = steps.define(settings, content["num_classes"])
    params, stats = safetensors_io.load_variables(weights)
    variables = {"params": params, "stats": stats}
    saved = leaves.describe(leaves.flatten(variables))
    abstract = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    expected = leaves.flatten(dict(zip(variables, abstract, strict=True)))
    leaves.check_fit(weights, saved, expected, partial=False)
    if leaves.parameter_digest(variables) != content["parameter_digest"]:
        raise CheckpointError(f"{weights} holds other numbers than {config} says; export the run again")
    placed = jax.device_put(variables, sharding.replicated(sharding.make_mesh(settings.train)))
    return Trained(path, content["step"], settings, definition, **placed)
