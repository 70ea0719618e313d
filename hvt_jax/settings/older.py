"""Configs that runs of earlier versions left: fields they lack, by what those runs did, and names that have changed."""

from typing import Any

_LEVELS = ("frame", "clip", "sequence")
_LATER = {"model.initial_weights": "", "model.encoder": "hierarchy", "model.stem.trainable": True}
_LATER |= {"model.attention": "xla"}
_LATER |= {"data.resize": "keep", "train.compilation_cache": "auto", "train.deterministic": False}
_LATER |= {f"model.{level}.qkv_bias": False for level in _LEVELS}
_LATER |= {f"model.{level}.norm_epsilon": 1e-5 for level in _LEVELS}
_LATER |= {f"model.{level}.groups_at_once": 0 for level in _LEVELS}
_LATER |= {"objective.patch_weight": 1.0, "evaluation.protocols": ()}
_LATER |= dict.fromkeys(("vicreg", "svt", "brave", "jepa", "mae"))
_RENAMED = {"objective": {"patch_questions": "patch_targets"}}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return `config`, read from a config.json, with the fields that came later; groups it lacks stay away."""
    if not isinstance(config, dict):
        return config
    for group, names in _RENAMED.items():
        node = config.get(group)
        for before, now in names.items() if isinstance(node, dict) else ():
            if before in node:
                node.setdefault(now, node.pop(before))
    for name, value in _LATER.items():
        *groups, field = name.split(".")
        node = config
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(field, value)
    return config
