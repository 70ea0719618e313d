"""A whole run, as every command makes it that trains: the training, then what its config wants to be evaluated."""

import pathlib

from ml_collections import ConfigDict

from hvt_jax.evaluation.finetune import FinetuneSettings
from hvt_jax.run import loop
from hvt_jax.run.trained import open_run
from hvt_jax.tools import evaluation_data, evaluation_screen


def train(config: ConfigDict, workdir: str, start_from: loop.StartFrom) -> int:
    """Train as `loop.train` does, then ask the best checkpoint what `evaluation.protocols` names; return the exit code.

    Raises:
      as `loop.train`; DataError if the data of the evaluation cannot be used.
    """
    code = loop.train(config, workdir, start_from)
    if code == loop.DONE and config.evaluation.protocols:
        _evaluate(workdir)
    return code


def _evaluate(workdir: str) -> None:
    """Ask what the config wants to know of the best checkpoint, as the command `evaluate` does."""
    trained, out = open_run(workdir), pathlib.Path(workdir, "evaluation")
    settings = trained.settings
    views = {"clips": settings.data.test_views_temporal, "crops": settings.data.test_views_spatial}
    data = evaluation_data.load_data(trained, None, **views)
    asked = {"levels": trained.levels, "out": out, "finetune": FinetuneSettings()}
    evaluation_screen.evaluate(trained, data, settings.evaluation.protocols, **asked)
