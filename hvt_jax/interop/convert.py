"""A checkpoint and config of the original, turned into files of ours: what `import_original` does."""

import json
import os
import tempfile
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np

from hvt_jax.engine import state as state_lib
from hvt_jax.hierarchy import encoded_levels, level_below
from hvt_jax.interop import original, original_config, torch_file
from hvt_jax.interop.safetensors_io import read_arrays, save_variables
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings.geometry import model_hierarchy

VARIABLES_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_LARGEST_CONFIG = 1_000_000  # bytes
_MOST_COMPRESSION = 100  # of an .npz: more is a bomb
# What a checkpoint may lack: other methods of the original than `mine` train no predictions.
_OPTIONAL = ("predictors", "state_norm")


class Imported(NamedTuple):
    """What was imported: numbers of arrays and values, names not used, and our paths left as initialised."""

    arrays: int
    values: int
    unused: list[str]
    missing: list[str]


def import_checkpoint(checkpoint: str, config: str, output: str) -> Imported:
    """Write the variables of the original's `checkpoint` and our fields of its `config` to the folder `output`.

    Leaves `model.safetensors` (see `safetensors_io`) and `config.json`, a flat object of dotted names
    such as `model.frame.width`: what to override in a config to get this model.

    Args:
      checkpoint: .pt or .pth of torch, .npz or .safetensors, with the original's names.
      config: its merged config, .json or .yaml.
      output: a folder, made if need be; files of these names in it are replaced.

    Raises:
      CheckpointError: in one line, if a file cannot be read or they do not fit each other.
    """
    fields, state = read_config(config), original.without_prefixes(read_checkpoint(checkpoint))
    try:
        overrides = original_config.settings_overrides(fields, state)
        settings = original_config.model_settings(overrides)
        sizes = {name: overrides[f"data.{name}"] for name in ("num_frames", "height", "width")}
        hierarchy = model_hierarchy(settings, **sizes)
        hierarchy = hierarchy.with_edges(hierarchy.possible_edges(side=overrides["objective.side"]))
        fresh = jax.jit(lambda: state_lib.initial_variables(settings, hierarchy, key=0))()
        missing: list[str] = []
        params, stats, unused = original.import_state_dict(*jax.tree.map(np.asarray, fresh), state, missing)
    except KeyError as error:
        raise CheckpointError(f"{config} or {checkpoint} lacks {error}; the config must be the merged one") from error
    except (ValueError, TypeError, SyntaxError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint} does not fit {config}: {error}") from error
    needed = [path for path in missing if not any(part in path.split("/") for part in _OPTIONAL)]
    if needed:
        raise CheckpointError(f"{checkpoint} lacks {len(needed)} arrays that {config} asks for, first {needed[0]}")
    maps = [
        f"linear_proj.{original_config.GROUPS[level_below(level)]}.weight" for level in encoded_levels(settings.levels)
    ]
    extra = [name for name in maps if name in unused]
    if extra:
        raise CheckpointError(f"{checkpoint} has {extra[0]} between equal widths, where our model has no map")
    leaves = jax.tree.leaves((params, stats))
    os.makedirs(output, exist_ok=True)
    save_variables(os.path.join(output, VARIABLES_FILE), params, stats)
    with open(os.path.join(output, CONFIG_FILE), "w", encoding="utf-8") as file:
        json.dump(overrides, file, indent=2)
    return Imported(len(leaves) - len(missing), sum(leaf.size for leaf in leaves), unused, missing)


def read_checkpoint(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint by name, as its ending says; no code out of it can run.

    Raises:
      CheckpointError: in one line, if it is missing, damaged or of another kind.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is no file")
    ending = os.path.splitext(path)[1].lower()
    if ending == ".safetensors":
        return read_arrays(path)
    if ending == ".npz":
        return _read_npz(path)
    if ending not in (".pt", ".pth", ".ckpt", ".bin"):
        raise CheckpointError(f"{path}: unknown ending; expected .pt, .pth, .npz or .safetensors")
    with tempfile.TemporaryDirectory(prefix="hvt_import_") as folder:
        plain = os.path.join(folder, "state.safetensors")
        try:
            torch_file.torch_to_safetensors(path, plain)
        except torch_file.TorchFileError as error:
            raise CheckpointError(str(error)) from error
        return read_arrays(plain)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        if declared > _MOST_COMPRESSION * os.path.getsize(path):
            raise CheckpointError(f"{path} unpacks to {declared} bytes, over {_MOST_COMPRESSION} times its size")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read as .npz without running code: {error}") from error


def read_config(path: str) -> dict[str, Any]:
    """Return the original's config from a .json or .yaml file, of plain values only.

    Raises:
      CheckpointError: in one line, if it cannot be read or is no mapping.
    """
    import yaml

    try:
        if os.path.getsize(path) > _LARGEST_CONFIG:
            raise CheckpointError(f"{path} is larger than {_LARGEST_CONFIG} bytes; is it a config?")
        with open(path, encoding="utf-8") as file:
            content = json.load(file) if path.endswith(".json") else yaml.safe_load(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, but a config is a mapping")
    return content
