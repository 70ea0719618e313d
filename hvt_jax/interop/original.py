"""Import of checkpoints of the original PyTorch project: its names, its layouts, its config.

Only the mapping of names and layouts is here; numbers come in as a flat dict of numpy arrays, so no
torch is needed. `python -m hvt_jax.import_original` reads a `.pt` file safely and calls this.
"""

import ast
from typing import Any

import numpy as np

from hvt_jax.hierarchy import level_below

GROUPS = {"patch": "backbone", "frame": "space", "clip": "time", "sequence": "clip"}
LEVEL_OF_GROUP = {group: level for level, group in GROUPS.items()}
RELATION_SUFFIX = {"up": "u", "down": "d", "side": "s"}
UNUSED = ("mlp_head.", "num_batches_tracked")  # the classification head is imported with the probe, not here
DISTANCES = {"MSE": "mse", "CS": "cosine", "CE": "cross_entropy", "VICReg": "vicreg"}
_NORM_FIELDS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LAYER_PARTS = {
    "attention_norm": "0.norm",
    "attention": "0.fn",
    "mlp_norm": "1.norm",
    "mlp_hidden": "1.fn.net.0",
    "mlp_out": "1.fn.net.3",
}


def original_name(path: tuple[str, ...], available: Any) -> str:
    """Return the original's `state_dict` name of the parameter or statistic at our `path`.

    Args:
      path: e.g. ("levels", "frame", "positions", "table").
      available: the names in the checkpoint; needed where the original has several names for a thing.

    Raises:
      KeyError: if the original has nothing of the kind.
    """
    if path[0] == "stem":
        return _stem_name(path[1:])
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


def _predictor_name(group: str, path: list[str], available: Any) -> str:
    relation, part, *rest = path
    edge = f"{group}_{RELATION_SUFFIX[relation]}"
    if part == "codes":
        two = f"prediction_PEs.{edge}_t" in available
        suffix = {"member": "_t" if two else "", "group": "_g", "distance": ""}[rest[0]]
        return f"prediction_PEs.{edge}{suffix}"
    name = f"predictors.{edge}.layers"
    if part == "output_norm":
        return f"{name}.out_bn.l.{_NORM_FIELDS[rest[-1]]}"
    if part == "out":  # the last of the maps, three apart
        hidden = sum(f"{name}.{3 * index}.bias" in available for index in range(16))
        return f"{name}.{3 * hidden}.weight"
    kind, index = rest[0].rsplit("_", 1)
    if kind == "linear":
        return f"{name}.{3 * int(index)}.{_linear_field(rest[-1])}"
    return f"{name}.{3 * int(index) + 1}.l.{_NORM_FIELDS[rest[-1]]}"


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


def import_tree(template: dict, state: dict[str, np.ndarray], used: set[str], path: tuple[str, ...] = ()) -> dict:
    """Return a tree like `template` (nested dict of shaped leaves) filled from `state`.

    Args:
      template: our parameters or statistics; only shapes and dtypes are read.
      state: the original's arrays by name.
      used: names that were taken are added.
      path: where `template` stands in the whole tree.

    Raises:
      ValueError: naming both paths and shapes of the first array that is missing or does not fit.
    """
    filled = {}
    for key, leaf in template.items():
        here = (*path, key)
        if isinstance(leaf, dict):
            filled[key] = import_tree(leaf, state, used, here)
            continue
        name = original_name(here, state)
        if name not in state:
            raise ValueError(f"the checkpoint has no {name!r}, needed for {'/'.join(here)}")
        value = to_our_layout(here, np.asarray(state[name]))
        if value.shape != leaf.shape:
            raise ValueError(f"{name} has shape {value.shape} in our layout, {'/'.join(here)} has {leaf.shape}")
        used.add(name)
        filled[key] = value.astype(leaf.dtype)
    return filled


def import_state_dict(params: dict, stats: dict, state: dict[str, np.ndarray]) -> tuple[dict, dict, list[str]]:
    """Return (parameters, statistics, names that were not used) from the original's state dict.

    The head and counters are not reported as unused. See `import_tree` for the errors.
    """
    used: set[str] = set()
    filled = import_tree(params, state, used), import_tree(stats, state, used)
    unused = [name for name in state if name not in used and not any(part in name for part in UNUSED)]
    return (*filled, unused)


def settings_overrides(config: dict, state: dict[str, np.ndarray], *, num_groups: dict[str, int]) -> dict[str, Any]:
    """Return our config fields, as dotted names and values, for a config of the original.

    Args:
      config: the original's merged config (`data`, `train`, `arch`).
      state: its state dict; tells norms and hidden layers that the config leaves open.
      num_groups: {"clips": C} as used by that run.
    """
    arch, train = config["arch"], config["train"]
    groups = arch["groups"] if isinstance(arch["groups"], list) else ast.literal_eval(arch["groups"])
    backbone = arch["architecture_backbone"]
    norm = "batch" if arch["output_batchnorm"] else "none"
    fields: dict[str, Any] = {
        "model.hierarchy": "-".join(LEVEL_OF_GROUP[group] for group in groups),
        "model.num_clips": num_groups["clips"],
        "model.stem.kind": "conv" if backbone["use_cnn_stem"] else "linear",
        "model.stem.patch_size": int(arch["architecture_space"]["size_ratio"]),
        "model.stem.channels": backbone["out_channels"],
        "model.stem.norm_momentum": 0.999,
        "model.patch.output_norm": "batch" if "output_norms.backbone.l.weight" in state else "none",
        "objective.distance": DISTANCES[train["loss_fn"]],
        "objective.side": bool(train["use_temporal_prediction"]),
        "objective.std_divisor": float(train["std_divisor"]),
        "objective.regularizer": "none",
    }
    for group, level in LEVEL_OF_GROUP.items():
        level_arch = arch[f"architecture_{group}"]
        fields |= _level_overrides(level, level_arch, norm)
    return fields


def _level_overrides(level: str, arch: dict, norm: str) -> dict[str, Any]:
    hidden = arch["pred_h_dim"]
    hidden = ast.literal_eval(hidden) if isinstance(hidden, str) and hidden != "None" else hidden
    hidden = () if hidden in (None, "None") else tuple(hidden)
    fields = {
        "width": arch["dim"],
        "predictor_hidden": hidden,
        "predictor_hidden_norm": "batch",
        "predictor_norm": norm,
    }
    if level != "patch":
        fields |= {
            "output_norm": norm,
            "depth": arch["layers"],
            "num_heads": arch["heads"],
            "head_width": arch["head_dim"],
            "mlp_width": arch["mlp_dim"],
            "dropout": float(arch["dropout"]),
            "causal": bool(arch["causal_mask"]),
        }
    return {f"model.{level}.{name}": value for name, value in fields.items()}
