"""Kinetics weights of S3D by the names of two public PyTorch models, as an encoder or as a stem here.

`kylemin` are the names of github.com/kylemin/S3D, on which the original builds, `torchvision` those of
`torchvision.models.video.s3d`. Both are the same network, so they hold the same arrays: each must be there, and none
may be left over.
"""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax import disk
from hvt_jax.engine import state as state_lib
from hvt_jax.hierarchy import SINGLE
from hvt_jax.interop import convert, original
from hvt_jax.interop.safetensors_io import save_variables
from hvt_jax.model.s3d import S3D
from hvt_jax.run import leaves
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings.geometry import S3D_WIDTH

LAYOUTS, USES = ("torchvision", "kylemin"), ("encoder", "stem")
_TRUNK = {"kylemin": "base", "torchvision": "features"}
_HEAD = {"kylemin": "fc.0", "torchvision": "classifier.1"}
# Numbers of the stages that have parameters; pooling counts, too.
_STAGES = {"entry": 0, "mix": 2, "refine": 3, "mixed_3b": 5, "mixed_3c": 6}
_STAGES |= {f"mixed_4{letter}": 8 + number for number, letter in enumerate("bcdef")} | {"mixed_5b": 14, "mixed_5c": 15}
_BRANCHES = {"branch0": "branch0", "branch3": "branch3.1"}
_BRANCHES |= {f"branch{number}_reduce": f"branch{number}.0" for number in (1, 2)}
_BRANCHES |= {f"branch{number}": f"branch{number}.1" for number in (1, 2)}
# A convolution and its BatchNorm: alone, and of a separable pair.
_PARTS = {
    "kylemin": {"": ("conv", "bn"), "space": ("conv_s", "bn_s"), "time": ("conv_t", "bn_t")},
    "torchvision": {"": ("0", "1"), "space": ("0.0", "0.1"), "time": ("1.0", "1.1")},
}
_NORM_FIELDS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# How the frames were made that the weights saw. torchvision's are squeezed to 256x256, then cut to 224x224.
_PIXELS = {
    "kylemin": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "torchvision": {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
    | {"height": 224, "width": 224, "resize": "squeeze", "resize_margin": 1.143},
}
_SHOWN = 3  # names in a message


class Imported(NamedTuple):
    """What was imported: fields of a config that make it fit, numbers, and classes of the head."""

    overrides: dict[str, Any]
    values: int
    classes: int


def import_weights(weights: str, output: str, *, layout: str, use: str) -> Imported:
    """Write `model.safetensors` and `config.json` (fields to override) of S3D to the folder `output`.

    Args:
      weights: .safetensors, .npz, .pt or .pth.
      output: made if need be; files of these names in it are replaced.
      layout: one of `LAYOUTS`.
      use: "encoder", with its head, or "stem", without it.

    Raises:
      CheckpointError: in one line, if the file cannot be read, or its names or shapes are others.
    """
    state = convert.read_checkpoint(weights)
    params, stats, head = to_our_variables(state, layout, weights)
    place = ("levels", SINGLE[0]) if use == "encoder" else ("stem", "convolutions")
    params, stats = ({place[0]: {place[1]: tree}} for tree in (params, stats))
    if use == "encoder":
        params["head"] = head
    overrides = _overrides(layout, use)
    os.makedirs(output, exist_ok=True)
    save_variables(os.path.join(output, convert.VARIABLES_FILE), params, stats)
    disk.write_file(os.path.join(output, convert.CONFIG_FILE), json.dumps(overrides, indent=2).encode())
    values = sum(leaf.size for leaf in jax.tree.leaves((params, stats)))
    return Imported(overrides, values, len(head["bias"]))


def to_our_variables(
    state: Mapping[str, np.ndarray], layout: str, path: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Return (parameters, statistics) of `model.s3d.S3D` by our paths, and {"kernel": [1024, classes], "bias"}.

    Args:
      state: arrays by name; `module.`, as wrappers put it before them, is taken off, and counters are not read.
      layout: one of `LAYOUTS`.
      path: the file, for messages.

    Raises:
      CheckpointError: naming what is missing, left over, of another shape or not finite.
    """
    state = {name.removeprefix("module."): array for name, array in state.items()}
    state = {name: np.asarray(array) for name, array in state.items() if not name.endswith(original.COUNTERS)}
    _check_names(set(state), layout, path)
    found = []
    for tree in _template():
        flat = leaves.flatten(tree)
        arrays = {ours: _fitted(state, ours, leaf.shape, layout, path) for ours, leaf in flat.items()}
        found.append(leaves.nest(arrays))
    kernel, bias = (state[f"{_HEAD[layout]}.{field}"] for field in ("weight", "bias"))
    if kernel.shape[1:] != (S3D_WIDTH, 1, 1, 1) or bias.shape != kernel.shape[:1]:
        raise CheckpointError(
            f"{path}: {_HEAD[layout]} has shapes {kernel.shape} and {bias.shape}, but must map {S3D_WIDTH} features"
        )
    head = {"kernel": kernel[:, :, 0, 0, 0].T.astype(np.float32), "bias": bias.astype(np.float32)}
    return *found, head


def their_name(ours: str, layout: str) -> str:
    """Return the name that a layout has for our path, such as `mixed_3b/branch1/time/norm/scale`."""
    stage, *rest = ours.split("/")
    name = f"{_TRUNK[layout]}.{_STAGES[stage]}"
    if rest[0] in _BRANCHES:
        branch = rest.pop(0)
        name += f".{_BRANCHES[branch]}" + (".0" if branch == "branch0" and layout == "kylemin" else "")
    convolution, norm = _PARTS[layout][rest.pop(0) if rest[0] in ("space", "time") else ""]
    return f"{name}.{convolution}.weight" if rest == ["kernel"] else f"{name}.{norm}.{_NORM_FIELDS[rest[-1]]}"


@functools.cache
def _template() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the shapes of (parameters, statistics)."""
    build = functools.partial(S3D, momentum=0.9, dtype=jnp.dtype("float32"))
    return jax.eval_shape(lambda: state_lib.variables_of(build, 0))


def _names(layout: str) -> set[str]:
    """Return all names of a layout."""
    names = {their_name(ours, layout) for tree in _template() for ours in leaves.flatten(tree)}
    return names | {f"{_HEAD[layout]}.weight", f"{_HEAD[layout]}.bias"}


def _check_names(found: set[str], layout: str, path: str) -> None:
    wanted = _names(layout)
    if found == wanted:
        return
    parts = []
    for what, names in (("missing", wanted - found), ("left over", found - wanted)):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {what} ({', '.join(sorted(names)[:_SHOWN])}{more})")
    other = next((other for other in LAYOUTS if other != layout and _names(other) == found), None)
    hint = f"; it has those of --layout={other}" if other else ""
    raise CheckpointError(f"{path} has not the names of layout {layout}: {' and '.join(parts)}{hint}")


def _fitted(state: Mapping[str, np.ndarray], ours: str, shape: tuple[int, ...], layout: str, path: str) -> np.ndarray:
    """Return an array of the file in our layout."""
    name = their_name(ours, layout)
    array, is_kernel = state[name], ours.endswith("/kernel")
    if array.ndim == (5 if is_kernel else 1):
        fitted = original.to_our_layout(tuple(ours.split("/")), array)
        if fitted.shape == shape:
            if not np.isfinite(fitted).all():
                raise CheckpointError(f"{path}: {name} is not finite")
            return fitted.astype(np.float32)
    raise CheckpointError(f"{path}: {name} has shape {array.shape}, which does not become {shape}, that of {ours}")


def _overrides(layout: str, use: str) -> dict[str, Any]:
    fields = {f"data.{name}": value for name, value in _PIXELS[layout].items()}
    if use == "stem":
        return fields | {"model.stem.kind": "s3d", "model.stem.patch_size": 1}
    level = f"model.{SINGLE[0]}"
    fields |= {"model.encoder": "s3d", "model.hierarchy": SINGLE[0], "method": "supervised"}
    return fields | {f"{level}.width": S3D_WIDTH, f"{level}.output_norm": "none", f"{level}.causal": False}
