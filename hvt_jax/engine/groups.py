"""Parameter groups, here called labels: which parameters move together.

Each level is one, its predictors are another, and so is every further part of a method, such as a head.
"""

from typing import Any

import jax
import jax.numpy as jnp

from hvt_jax.hierarchy import LEVELS

_MAX_PATHS_IN_ERROR = 20
_SMALL = 16384  # elements


def levels_of(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `groups` that are levels, in their order: the hierarchy, lowest first."""
    return tuple(group for group in groups if group in LEVELS)


def parameter_labels(params: Any, groups: tuple[str, ...]) -> Any:
    """Return a pytree like `params` with the group of every parameter.

    `stem/...` belongs to the lowest level, `levels/<level>/predictors/...` to `<level>/predictors`, the rest of
    `levels/<level>/...` to `<level>`, and what stands beside them, such as `head/...`, to the group of that name.

    Args:
      params: parameters, or their gradients or updates.
      groups: of the method, see `objectives.method`; its levels are the hierarchy.

    Raises:
      ValueError: naming the paths that no group covers, or the groups that no parameter has.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    labels = [_path_label(path, groups) for path in paths]
    uncovered = [path for path, label in zip(paths, labels, strict=True) if label not in groups]
    if uncovered:
        raise ValueError(
            f"{len(uncovered)} parameters belong to none of the groups {', '.join(groups)}: "
            f"{', '.join(uncovered[:_MAX_PATHS_IN_ERROR])}; expected stem/..., levels/<level>/... or <group>/..."
        )
    missing = [group for group in groups if group not in labels]
    if missing:
        raise ValueError(f"no parameter belongs to {', '.join(missing)} of the groups {', '.join(groups)}")
    return jax.tree_util.tree_unflatten(structure, labels)


def label_norms(tree: Any, labels: Any) -> dict[str, jax.Array]:
    """Return the L2 norm, float32 or wider, of every label's part of `tree` (gradients, updates, parameters)."""
    parts: dict[str, list[jax.Array]] = {}
    small: dict[str, list[jax.Array]] = {}
    for label, leaf in zip(jax.tree.leaves(labels), jax.tree.leaves(tree), strict=True):
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        (small if leaf.size <= _SMALL else parts).setdefault(label, []).append(leaf)
    # Hundreds of biases and norms as one array: every sum over one of its own is a program to be compiled.
    for label, leaves in small.items():
        parts.setdefault(label, []).append(jnp.concatenate([leaf.ravel() for leaf in leaves]))
    return {label: jnp.sqrt(sum(jnp.sum(jnp.square(part)) for part in of)) for label, of in parts.items()}


def _path_label(path: str, groups: tuple[str, ...]) -> str:
    """Group that a path such as `levels/frame/predictors/up/...` names, whether there is one or not."""
    root, *rest = path.split("/")
    if root == "stem":
        return levels_of(groups)[0]
    if root != "levels" or not rest:
        return root
    return f"{rest[0]}/predictors" if rest[1:2] == ["predictors"] else rest[0]
