"""A pytree as one flat mapping from path to array: how a state is saved, compared and hashed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hvt_jax.run.seals import CheckpointError

_MAX_PATHS = 20


def flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves of `tree` by path, such as `opt_state/0/mu/...`; `None` and empty containers vanish."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise CheckpointError(f"two leaves of the state have the path {name}; rename one")
        if not hasattr(leaf, "dtype"):
            leaf = np.asarray(leaf)
        if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) and leaf.dtype.kind in "OUSMm":
            raise CheckpointError(f"{name} of the state is no array or number, but {leaf.dtype}")
        leaves[name] = leaf
    return leaves


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts of leaves by path, as `flatten` takes those apart."""
    root: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return root


def describe(leaves: dict[str, Any]) -> dict[str, str]:
    """Return dtype and shape of each leaf, such as `float32[3,4]`."""
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()}


def bytes_on_disk(leaves: dict[str, Any]) -> int:
    """Return an upper estimate for one checkpoint: the arrays uncompressed, and their metadata."""
    arrays = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves.values())
    return int(1.05 * arrays) + 1000 * len(leaves)


def savable(leaves: dict[str, Any]) -> dict[str, Any]:
    """Return `leaves` as Orbax takes them: no numpy scalars, and none of size 0 (`empty` makes those anew)."""
    arrays = {name: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for name, leaf in leaves.items()}
    return {name: array for name, array in arrays.items() if array.size}


def placed(leaf: Any) -> Any:
    """Return what Orbax is to make of a leaf: an array with a sharding, or numpy as it is."""
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def empty(leaf: Any) -> Any:
    """Return a leaf of size 0 like `leaf`, which Orbax does not save."""
    zeros = np.zeros(leaf.shape, leaf.dtype)
    sharding = getattr(placed(leaf), "sharding", None)
    return zeros if sharding is None else jax.device_put(zeros, sharding)


def check_fit(path: str, saved: dict[str, str], abstract: dict[str, Any], partial: bool) -> None:
    """Raise CheckpointError naming up to 20 paths, unless each leaf was saved with its shape and dtype.

    Args:
      path: the checkpoint, for the message.
      saved: `describe` of the leaves that were saved.
      abstract: the leaves that are to be restored, by path.
      partial: let more be saved than is to be restored.
    """
    wanted = describe(abstract)
    lines = [f"  {name}: not in the checkpoint, {wanted[name]} in the config" for name in wanted if name not in saved]
    lines += [
        f"  {name}: {saved[name]} in the checkpoint, {wanted[name]} in the config"
        for name in wanted
        if name in saved and saved[name] != wanted[name]
    ]
    if not partial:
        lines += [
            f"  {name}: {saved[name]} in the checkpoint, not in the config" for name in saved if name not in wanted
        ]
    if lines:
        more = [f"  ... and {len(lines) - _MAX_PATHS} more"] if len(lines) > _MAX_PATHS else []
        raise CheckpointError(
            "\n".join(
                [f"checkpoint {path} does not fit the config; {len(lines)} paths differ:", *lines[:_MAX_PATHS], *more]
            )
            + "\nUse the config that the run was started with (config.json), or a new --workdir."
        )


def parameter_digest(tree: Any) -> str:
    """Return the SHA-256, in hex, over the sorted paths, dtypes, shapes and bytes of a pytree.

    Equal digests mean bit-equal trees. With several processes all must call it: shards are gathered.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        if isinstance(leaf, jax.Array):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
                leaf = multihost_utils.process_allgather(leaf, tiled=True)
        leaf = np.asarray(leaf)
        digest.update(f"{name} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return digest.hexdigest()
