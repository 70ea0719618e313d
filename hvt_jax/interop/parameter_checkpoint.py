"""Parameters and statistics as an Orbax checkpoint of one flat mapping, which Orbax alone restores."""

import os

import numpy as np
from orbax.checkpoint import v1 as ocp

from hvt_jax.run import leaves


def save(path: str | os.PathLike, variables: dict[str, np.ndarray]) -> None:
    """Write arrays by name to the folder `path`, which must not be there."""
    ocp.save(os.path.abspath(path), leaves.savable(variables))  # Orbax fails on a relative path


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays by name, as anybody would read them: without any tree of shapes."""
    return {name: np.asarray(array) for name, array in ocp.load(os.path.abspath(path)).items()}
