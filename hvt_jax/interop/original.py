"""Import of checkpoints of the original PyTorch project: its names and layouts.

Only the mapping of names and layouts is here; numbers come in as a flat dict of numpy arrays, so no
torch is needed. `python -m hvt_jax import_original` reads a `.pt` file safely and calls this.
"""

from collections.abc import Container, Mapping

import numpy as np

from hvt_jax.hierarchy import level_below
from hvt_jax.interop.original_config import GROUPS

RELATION_SUFFIX = {"up": "u", "down": "d", "side": "s"}
COUNTERS = "num_batches_tracked"  # of its BatchNorm, which nothing reads
_NORM_FIELDS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LAYER_PARTS = {
    "attention_norm": "0.norm",
    "attention": "0.fn",
    "mlp_norm": "1.norm",
    "mlp_hidden": "1.fn.net.0",
    "mlp_out": "1.fn.net.3",
}


def original_name(path: tuple[str, ...], available: Container[str]) -> str:
    """Return the original's `state_dict` name of the parameter or statistic at our `path`.

    Args:
      path: e.g. ("levels", "frame", "positions", "table").
      available: the names in the checkpoint; needed where the original has several names for a thing.

    Raises:
      KeyError: if the original has nothing of the kind.
    """
    if path[0] == "stem":
        return _stem_name(path[1:])
    if path[0] == "projector":  # of method vicreg; there it stands beside the model
        return _mlp_name("projector.layers", path[1:], available)
    _, level, part, *rest = path
    group = GROUPS[level]
    if part == "input_projection":
        return f"linear_proj.{GROUPS[level_below(level)]}.{_linear_field(rest[-1])}"
    if part in ("positions", "class_token"):
        return f"transformer_modules.{group}.{'pos_embedding' if part == 'positions' else 'cls_token'}"
    if part in ("output_norm", "state_norm"):
        return f"{'output_norms' if part == 'output_norm' else 'target_norms'}.{group}.l.{_NORM_FIELDS[rest[-1]]}"
    if part == "transformer":
        return f"transformer_modules.{group}.transformer.{_transformer_name(rest)}"
    if part == "predictors":
        return _predictor_name(group, rest, available)
    raise KeyError(f"the original has nothing like {'/'.join(path)}")


def _linear_field(field: str) -> str:
    return {"kernel": "weight", "bias": "bias"}[field]


def _stem_name(path: tuple[str, ...]) -> str:
    if path[0] == "embedding":
        return f"to_patch_embedding.1.{_linear_field(path[1])}"
    if path[0] == "output_norm":
        return f"output_norms.backbone.l.{_NORM_FIELDS[path[1]]}"
    block = {"entry": "0", "mix": "2", "refine": "3"}[path[1]]
    kind = {"space": "_s", "time": "_t"}[path[2]] if path[1] != "mix" else ""
    field = path[-2:] if path[-2] == "norm" else path[-1:]
    if field[0] == "kernel":
        return f"backbone.net.{block}.conv{kind}.weight"
    return f"backbone.net.{block}.bn{kind}.{_NORM_FIELDS[field[1]]}"


def _transformer_name(path: list[str]) -> str:
    if path[0] == "norm":
        return f"norm.{_NORM_FIELDS[path[-1]]}"
    _, layer, part, *rest = path
    name = f"layers.{int(layer.removeprefix('layer_'))}.{_LAYER_PARTS[part]}"
    if part.endswith("_norm"):
        return f"{name}.{_NORM_FIELDS[rest[-1]]}"
    if part == "attention":
        name += {"qkv": ".to_qkv", "out": ".to_out.0"}[rest[0]]
    return f"{name}.{_linear_field(rest[-1])}"


def _predictor_name(group: str, path: list[str], available: Container[str]) -> str:
    relation, *rest = path
    edge = f"{group}_{RELATION_SUFFIX[relation]}"
    if rest[0] == "codes":
        two = f"prediction_PEs.{edge}_t" in available
        suffix = {"member": "_t" if two else "", "group": "_g", "distance": ""}[rest[1]]
        return f"prediction_PEs.{edge}{suffix}"
    return _mlp_name(f"predictors.{edge}.layers", rest, available)


def _mlp_name(name: str, path: list[str] | tuple[str, ...], available: Container[str]) -> str:
    part, *rest = path
    if part == "output_norm":
        return f"{name}.out_bn.l.{_NORM_FIELDS[rest[-1]]}"
    # A hidden layer is a linear map, a norm and a GELU, so the maps are three apart.
    apart = 3 if f"{name}.1.l.weight" in available else 2
    if part == "out":
        hidden = sum(f"{name}.{apart * index}.bias" in available for index in range(16))
        return f"{name}.{apart * hidden}.weight"
    kind, index = rest[0].rsplit("_", 1)
    if kind == "linear":
        return f"{name}.{apart * int(index)}.{_linear_field(rest[-1])}"
    return f"{name}.{apart * int(index) + 1}.l.{_NORM_FIELDS[rest[-1]]}"


def to_our_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """Return `value` of the original in our layout: kernels [in, out], convolutions [y, x, in, out]."""
    if path[-1] == "kernel" and value.ndim == 5:  # [out, in, t, y, x], with t or (y, x) of size 1
        spatial = value.shape[2] == 1
        return (value[:, :, 0] if spatial else value[..., 0]).transpose(2, 3, 1, 0)
    if path[-1] == "kernel":
        return value.T
    if path[-1] == "table":
        value = value.reshape(value.shape[-2:])
        # Distances: row 0 of the original is never used (its index skips it), so it has no place here.
        return value[1:] if path[-2] == "distance" else value
    return value


def without_prefixes(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `state` under the names of the bare model.

    `module.` is what torch's data-parallel wrappers add; `backbone.` stands before the model's own names
    where it was trained with two views, beside `projector.`.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith("backbone.transformer_modules.") for name in state):
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    return state


def import_tree(
    template: dict,
    state: Mapping[str, np.ndarray],
    used: set[str],
    path: tuple[str, ...] = (),
    missing: list[str] | None = None,
) -> dict:
    """Return a tree like `template` (nested dict of shaped leaves) filled from `state`.

    Args:
      template: our parameters or statistics; only shapes and dtypes are read, unless `missing` is given.
      state: the original's arrays by name.
      used: names that were taken are added.
      path: where `template` stands in the whole tree.
      missing: if given, our paths that `state` lacks are added to it and keep the template's leaf.

    Raises:
      ValueError: naming both paths and shapes of the first array that is missing or does not fit.
    """
    filled = {}
    for key, leaf in template.items():
        here = (*path, key)
        if isinstance(leaf, dict):
            filled[key] = import_tree(leaf, state, used, here, missing)
            continue
        name = original_name(here, state)
        value = to_our_layout(here, np.asarray(state[name])) if name in state else _identity(here, leaf.shape, state)
        if value is None:
            if missing is None:
                raise ValueError(f"the checkpoint has no {name!r}, needed for {'/'.join(here)}")
            missing.append("/".join(here))
            filled[key] = leaf
            continue
        if value.shape != leaf.shape:
            raise ValueError(f"{name} has shape {value.shape} in our layout, {'/'.join(here)} has {leaf.shape}")
        used.add(name)
        filled[key] = value.astype(leaf.dtype)
    return filled


def _identity(path: tuple[str, ...], shape: tuple[int, ...], state: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the output map of attention where the original has none: one head as wide as its level."""
    if path[-3:-1] != ("attention", "out") or len(set(shape)) != 1:
        return None
    group = f"transformer_modules.{GROUPS[path[1]]}."
    own = [name for name in state if name.startswith(group)]
    if not any(".to_qkv." in name for name in own) or any(".to_out." in name for name in own):
        return None
    return np.zeros(shape) if path[-1] == "bias" else np.eye(shape[0])


def import_state_dict(
    params: dict, stats: dict, state: Mapping[str, np.ndarray], missing: list[str] | None = None
) -> tuple[dict, dict, list[str]]:
    """Return (parameters, statistics, names that were not used) from the original's state dict.

    Counters of batches are not reported as unused; its classification head is, which ours has not. Where
    the original has no output map of attention ours is the identity, which then trains. See `import_tree`
    for `missing` and the errors.
    """
    used: set[str] = set()
    filled = import_tree(params, state, used, (), missing), import_tree(stats, state, used, (), missing)
    unused = [name for name in state if name not in used and not name.endswith(COUNTERS)]
    return (*filled, unused)
