"""The original's config as our config fields, with what only its checkpoint tells."""

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np

from hvt_jax.settings import reader
from hvt_jax.settings.model_settings import ModelSettings

GROUPS = {"patch": "backbone", "frame": "space", "clip": "time", "sequence": "clip"}
LEVEL_OF_GROUP = {group: level for level, group in GROUPS.items()}
DISTANCES = {"MSE": "mse", "CS": "cosine", "CE": "cross_entropy", "VICREG": "vicreg"}
_CONSTANTS = {
    "prediction_temperature": ("CE", "pred_temp"),
    "target_temperature": ("CE", "tgt_temp"),
    "cross_entropy_epsilon": ("CE", "eps"),
    "cosine_scale": ("CS", "mult"),
    "invariance_weight": ("VICREG", "sim_coeff"),
    "variance_weight": ("VICREG", "std_coeff"),
    "covariance_weight": ("VICREG", "cov_coeff"),
    "variance_epsilon": ("VICREG", "eps"),
}


def groups_of(config: dict) -> list[str]:
    """Return the groups (trained levels by the original's names), which it writes as a list or as its text."""
    groups = config["arch"]["groups"]
    return list(ast.literal_eval(groups) if isinstance(groups, str) else groups)


def clips_of(state: Mapping[str, np.ndarray], groups: list[str]) -> int:
    """Return how many clips the model of a state dict joins into a sequence: 1 without the group `clip`."""
    if "clip" not in groups:
        return 1
    rows = state["transformer_modules.clip.pos_embedding"].shape[-2]
    return rows - ("transformer_modules.clip.cls_token" in state)


def settings_overrides(
    config: dict, state: Mapping[str, np.ndarray], *, num_groups: dict[str, int] | None = None
) -> dict[str, Any]:
    """Return our config fields, as dotted names and values, for a config of the original.

    Every field of `model`, and those of `data` and `objective` that the original has too, except where its
    data lie. How its optimizers are set is not mapped, nor how it augmented. The mean is 0 and the
    deviation 1, whatever `normalization` says: only augmented videos were normalised, and features were
    computed of values in 0-1.

    Args:
      config: the original's merged config (`data`, `train`, `arch`).
      state: its state dict; tells norms and hidden layers that the config leaves open.
      num_groups: {"clips": C}; by default read from the state dict.

    Raises:
      KeyError: the name of a field that the config lacks.
    """
    arch, train = config["arch"], config["train"]
    groups = groups_of(config)
    backbone = arch["architecture_backbone"]
    norm = "batch" if arch["output_batchnorm"] else "none"
    stem_kernel = state.get("backbone.net.0.conv_s.weight")
    fields: dict[str, Any] = {
        "model.encoder": "hierarchy",
        "model.hierarchy": "-".join(LEVEL_OF_GROUP[group] for group in groups),
        "model.num_clips": num_groups["clips"] if num_groups else clips_of(state, groups),
        "model.compute_dtype": "float32",
        "model.attention": "xla",
        "model.initial_weights": "",
        "model.stem.kind": "conv" if backbone["use_cnn_stem"] else "linear",
        "model.stem.patch_size": int(arch["architecture_space"]["size_ratio"]),
        "model.stem.width": 64 if stem_kernel is None else int(stem_kernel.shape[0]),
        "model.stem.channels": backbone["out_channels"],
        "model.stem.norm_momentum": 0.999,
        "model.stem.trainable": True,
        "model.patch.output_norm": "batch" if "output_norms.backbone.l.weight" in state else "none",
    }
    for group, level in LEVEL_OF_GROUP.items():
        fields |= _level_overrides(level, arch[f"architecture_{group}"], norm, _hidden_norm(group, state))
    return fields | _data_overrides(config, groups) | _objective_overrides(train)


def _hidden_norm(group: str, state: Mapping[str, np.ndarray]) -> str:
    # Hidden layers: linear, norm, GELU. Without the norm the second layer's bias would be at index 2.
    hidden = [f"predictors.{group}_{relation}.layers" for relation in "uds"]
    plain = any(f"{name}.0.bias" in state and f"{name}.1.l.weight" not in state for name in hidden)
    return "none" if plain else "batch"


def _level_overrides(level: str, arch: dict, norm: str, hidden_norm: str) -> dict[str, Any]:
    hidden = arch["pred_h_dim"]
    hidden = ast.literal_eval(hidden) if isinstance(hidden, str) else hidden
    fields = {
        "width": arch["dim"],
        "predictor_hidden": tuple(hidden or ()),
        "predictor_hidden_norm": hidden_norm,
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
            "qkv_bias": False,
            "norm_epsilon": 1e-5,
            "remat": False,
            "groups_at_once": 0,
            "scan": False,
        }
    return {f"model.{level}.{name}": value for name, value in fields.items()}


def _data_overrides(config: dict, groups: list[str]) -> dict[str, Any]:
    sampler = config["data"][config["train"]["dataset"]]["sampler"]
    # Without a level above `space` the original sees single images, whatever its sampler's length says.
    frames = config["arch"]["architecture_time"]["input_size"] if "time" in groups else 1
    return {
        "data.num_frames": frames,
        "data.frame_stride": sampler.get("frequency", 1),  # samplers of images have none
        "data.window_step": sampler.get("step", 1),
        "data.max_windows_per_video": config["data"].get("max_seq_per_video", 0),
        "data.height": sampler["height"],
        "data.width": sampler["width"],
        "data.mean": (0.0, 0.0, 0.0),
        "data.std": (1.0, 1.0, 1.0),
    }


def _objective_overrides(train: dict) -> dict[str, Any]:
    constants = train["loss_params"]
    fields = {
        "distance": DISTANCES[train["loss_fn"].upper()],
        "side": bool(train["use_temporal_prediction"]),
        "std_divisor": float(train["std_divisor"]),
        "regularizer": "none",
        "patch_targets": "uniform",
        "patch_weight": 1.0,
        "weights_to_uniform": bool(train.get("interpolate_loss_weights_to_uniformity", False)),
        **{name: float(constants[loss][key]) for name, (loss, key) in _CONSTANTS.items()},
    }
    for name, weight in train["loss_weights"].items():
        group, relation = name.rsplit("_", 1)
        fields[f"edge_weights.{LEVEL_OF_GROUP[group]}.{relation}"] = float(weight)
    return {f"objective.{name}": value for name, value in fields.items()}


def model_settings(overrides: dict[str, Any]) -> ModelSettings:
    """Return the model's settings out of `settings_overrides`, which names every field of them.

    Raises:
      SettingsError: naming the field that is of a wrong type.
    """
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        room, *parents, last = name.split(".")
        if room == "model":
            group = nested
            for parent in parents:
                group = group.setdefault(parent, {})
            group[last] = value
    return reader.read(ModelSettings, nested, "model")
