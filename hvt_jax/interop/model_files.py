"""The one way to open a trained model, wherever it lies: the folder of a run or that of an export."""

import os

from hvt_jax.run import trained
from hvt_jax.run.trained import Trained


def open_model(path: str | os.PathLike, which: str = "best") -> Trained:
    """Return the model in a folder, without touching it.

    Args:
      path: of a run, which may still be going on, or of what `export` wrote.
      which: of a run "best", "last" or the number of a step; an export has one model only.

    Raises:
      CheckpointError: if there is no model there, or none that can be trusted.
      SettingsError: if its config is not of this version.
    """
    return trained.open_run(path, which)
