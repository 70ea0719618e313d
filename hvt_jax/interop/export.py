"""A trained model as a folder that others can use; it appears only once its files gave back the same numbers."""

import importlib.util
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from hvt_jax import __version__, disk
from hvt_jax.engine import steps
from hvt_jax.interop import export_texts, model_files, parameter_checkpoint, safetensors_io, stablehlo
from hvt_jax.run import leaves, run_folder, trained
from hvt_jax.run.seals import CheckpointError
from hvt_jax.run.trained import Trained
from hvt_jax.settings import SettingsError

_EXAMPLES, _LARGE_EXAMPLE = 2, 4 << 20  # videos; bytes above which only one of them is kept
# Largest difference allowed, over the largest value of a level: sums in another order, no more.
_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2}
_PLACES = {"root": "", "storage": "raw", "storage_root": "", "manifest": ""}  # of the machine that trained, not ours


class Exported(NamedTuple):
    """Step, number of values, and the largest difference, over the largest value of a level, of each reloaded file."""

    step: int
    values: int
    differences: dict[str, float]


def export(run: str, output: str, which: str) -> Exported:
    """Write the model of a run to the new folder `output`, verified.

    Args:
      run: its folder.
      output: must not be there, or be empty.
      which: "best", "last" or the number of a step.

    Raises:
      CheckpointError: if there is no such model, the folder is there, or a reloaded file gives other numbers.
      SettingsError: if flatbuffers is missing.
    """
    output_folder = pathlib.Path(os.path.abspath(output))
    if output_folder.exists() and (not output_folder.is_dir() or any(output_folder.iterdir())):
        raise CheckpointError(f"{output} is there and not empty; name a new folder")
    if importlib.util.find_spec("flatbuffers") is None:
        raise SettingsError("StableHLO is written by flatbuffers, which is missing: pip install flatbuffers")
    model = trained.open_run(run, which)
    unfinished = output_folder.with_name(output_folder.name + ".unfinished")
    with disk.locked(unfinished, CheckpointError):
        try:
            for left in unfinished.iterdir():  # by an export that was interrupted
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            found = _write(model, unfinished, output_folder.name)
            if output_folder.exists():
                output_folder.rmdir()
            os.replace(unfinished, output_folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    disk.sync_to_disk(output_folder.parent)
    return found


def _write(model: Trained, folder: pathlib.Path, name: str) -> Exported:
    variables = {"params": model.params, "stats": model.stats}
    flat = {path: np.asarray(leaf) for path, leaf in leaves.flatten(variables).items()}
    program, video = stablehlo.serialise(model), _example(model)
    features = jax.device_get(model.compile()({"video": video}))
    safetensors_io.save_variables(folder / model_files.VARIABLES_FILE, model.params, model.stats)
    run_folder.write_json(str(folder / model_files.CONFIG_FILE), _description(model))
    parameter_checkpoint.save(folder / "orbax", flat)
    disk.write_file(folder / "encode.stablehlo", program)
    shown = slice(1 if video.nbytes > _LARGE_EXAMPLE else None)
    np.savez(folder / "example.npz", video=video[shown], **{level: found[shown] for level, found in features.items()})
    disk.write_file(folder / "run_exported.py", export_texts.SCRIPT.encode())
    differences = _verify(folder, flat, video, features, _TOLERANCE[model.settings.model.compute_dtype])
    facts = {"version": __version__, "platforms": " and ".join(stablehlo.PLATFORMS), "digest": model.digest}
    facts["differences"] = ", ".join(f"{file} {value:.1e}" for file, value in differences.items())
    values = sum(array.size for array in flat.values())
    card = export_texts.card(model, name, facts | {"values": values})
    disk.write_file(folder / "README.md", card.encode())
    return Exported(model.step, values, differences)


def _verify(
    folder: pathlib.Path, flat: dict[str, np.ndarray], video: np.ndarray, features: dict[str, Any], tolerance: float
) -> dict[str, float]:
    """Return the largest relative difference of each reloaded file.

    Raises:
      CheckpointError: if one is too large.
    """
    restored = parameter_checkpoint.load(folder / "orbax")
    if restored.keys() != flat.keys() or any(not np.array_equal(restored[path], flat[path]) for path in flat):
        raise CheckpointError(f"{folder / 'orbax'} gives back other arrays than were saved; nothing was exported")
    reopened = model_files.open_model(folder)
    program = (folder / "encode.stablehlo").read_bytes()
    arrays = safetensors_io.read_arrays(folder / model_files.VARIABLES_FILE)
    found = {
        "model.safetensors": reopened.compile()({"video": video}),
        "orbax": stablehlo.run(program, restored, video),
        "encode.stablehlo": stablehlo.run(program, arrays, video),
    }
    # A class is named by the largest of several scores, and a tie may fall either way.
    differences, levels = {}, [level for level in features if level != steps.HEAD]
    for file, other in found.items():
        differences[file] = max(_difference(features[level], np.asarray(other[level])) for level in levels)
        if not differences[file] <= tolerance:
            raise CheckpointError(
                f"{folder / file}: reloaded it gives features that differ by {differences[file]:.1e} of the largest, "
                f"more than {tolerance:.0e}; nothing was exported"
            )
    return differences


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference over the largest value."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30))


def _example(model: Trained) -> np.ndarray:
    """Return videos of noise, uint8 [B, T, Y, X, 3]; as many as all devices can share."""
    data = model.settings.data
    videos = -(-_EXAMPLES // jax.device_count()) * jax.device_count()
    shape = (videos, data.num_frames, data.height, data.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _description(model: Trained) -> dict[str, Any]:
    """Return config.json of an export: what is needed to build the model again, and what its input is."""
    with open(os.path.join(model.source, "config.json"), encoding="utf-8") as file:
        config = ConfigDict(json.load(file)).to_dict()
    config["data"] |= _PLACES
    config["evaluation"]["supervised_ceiling"] = ""
    data = model.settings.data
    fields = ("num_frames", "frame_stride", "height", "width", "resize", "short_videos", "mean", "std")
    preprocessing = {"video": "uint8 [B, num_frames, height, width, 3], RGB, 0-255; mean and std of values in 0-1"}
    preprocessing |= {name: getattr(data, name) for name in fields}
    preprocessing |= {
        f"decoded_{side}": round(getattr(data, side) * data.resize_margin) for side in ("height", "width")
    }
    return {
        "format": model_files.FORMAT,
        "version": __version__,
        "step": model.step,
        "num_classes": model.definition.num_classes,
        "parameter_digest": model.digest,
        "levels": {level: getattr(model.settings.model, level).width for level in model.levels},
        "preprocessing": preprocessing,
        "config": config,
    }
