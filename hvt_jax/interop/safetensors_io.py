"""Parameters and statistics as one `.safetensors` file: plain arrays by path, nothing that runs."""

import os
from typing import Any

import numpy as np

from hvt_jax import disk
from hvt_jax.run import leaves
from hvt_jax.run.seals import CheckpointError

Tree = dict[str, Any]
_ROOMS = ("params", "stats")
_FORMAT = {"format": "hvt-jax/1"}


def save_variables(path: str | os.PathLike, params: Tree, stats: Tree) -> None:
    """Write `params/...` and `stats/...`, '/'-joined, to `path`; the file appears whole or not at all."""
    from safetensors import numpy as safetensors_numpy

    flat = leaves.flatten(dict(zip(_ROOMS, (params, stats), strict=True)))
    # safetensors writes the memory as it lies, so a transposed view must be laid out first.
    content = safetensors_numpy.save({k: np.asarray(v, order="C") for k, v in flat.items()}, metadata=_FORMAT)
    disk.write_file(path, content)


def load_variables(path: str | os.PathLike) -> tuple[Tree, Tree]:
    """Return (parameters, statistics) as nested dicts of numpy arrays.

    Raises:
      CheckpointError: if the file is missing, damaged or holds other names.
    """
    root: Tree = {room: {} for room in _ROOMS}
    for name, array in read_arrays(path).items():
        room, *parents = name.split("/")
        node = root.get(room)
        for parent in parents[:-1]:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not parents or not isinstance(node, dict) or parents[-1] in node:
            raise CheckpointError(f"{path}: {name!r} is no path of ours; expected names such as params/levels/...")
        node[parents[-1]] = array
    return root["params"], root["stats"]


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of a `.safetensors` file by name.

    Raises:
      CheckpointError: if the file is missing, truncated or damaged.
    """
    import safetensors
    from safetensors import numpy as safetensors_numpy

    try:
        return safetensors_numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error or type(error).__name__}") from error
