"""Labels: which parameters move together. Each level is one, and the predictors of each level another."""

from typing import Any

import jax
import jax.numpy as jnp

_MAX_PATHS_IN_ERROR = 20


def label_names(hierarchy: tuple[str, ...]) -> tuple[str, ...]:
    """Return every label of a hierarchy: each level, then its predictors."""
    return tuple(label for level in hierarchy for label in (level, f"{level}/predictors"))


def parameter_labels(params: Any, hierarchy: tuple[str, ...]) -> Any:
    """Return a pytree like `params` with the label of every parameter.

    `stem/...` belongs to the lowest level, `levels/<level>/predictors/...` to `<level>/predictors` and
    the rest of `levels/<level>/...` to `<level>`.

    Raises:
      ValueError: naming the paths that no label covers, or the labels that no parameter has.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    labels = [_path_label(path, hierarchy) for path in paths]
    uncovered = [path for path, label in zip(paths, labels, strict=True) if label is None]
    if uncovered:
        raise ValueError(
            f"{len(uncovered)} parameters belong to no level of {'-'.join(hierarchy)}: "
            f"{', '.join(uncovered[:_MAX_PATHS_IN_ERROR])}; expected stem/... or levels/<level>/..."
        )
    missing = [label for label in label_names(hierarchy) if label not in labels]
    if missing:
        raise ValueError(f"no parameter belongs to {', '.join(missing)} of the hierarchy {'-'.join(hierarchy)}")
    return jax.tree_util.tree_unflatten(structure, labels)


def label_norms(tree: Any, labels: Any) -> dict[str, jax.Array]:
    """Return the L2 norm, float32 or wider, of every label's part of `tree` (gradients, updates, parameters)."""
    squares: dict[str, list[jax.Array]] = {}
    for label, leaf in zip(jax.tree.leaves(labels), jax.tree.leaves(tree), strict=True):
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        squares.setdefault(label, []).append(jnp.sum(jnp.square(leaf)))
    return {label: jnp.sqrt(sum(parts)) for label, parts in squares.items()}


def _path_label(path: str, hierarchy: tuple[str, ...]) -> str | None:
    """Label of a path such as `levels/frame/predictors/up/...`; None if no label covers it."""
    root, *rest = path.split("/")
    if root == "stem":
        return hierarchy[0]
    if root != "levels" or not rest or rest[0] not in hierarchy:
        return None
    return f"{rest[0]}/predictors" if rest[1:2] == ["predictors"] else rest[0]
