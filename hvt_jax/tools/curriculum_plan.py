"""What the stages of a curriculum will be, known before the first one trains."""

import dataclasses
import functools

from hvt_jax.data import catalog
from hvt_jax.engine import optim, sharding, steps
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import evaluate
from hvt_jax.run import describe, events
from hvt_jax.settings.curriculum import Curriculum, Stage, of_stage


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage whose model, data and length are known.

    Attributes:
      stage: name, config and settings.
      definition: of its model.
      num_steps: of the whole stage.
    """

    stage: Stage
    definition: Definition
    num_steps: int

    @functools.cached_property
    def step_flops(self) -> float:
        """FLOPs of one step: forward and backward of a batch, as the compiler counts them before it optimises.

        Augmentation, the optimizer and evaluations are not in it.
        """
        return describe.count_flops(self.definition, self.stage.settings.train.batch_size)[1]

    @property
    def videos(self) -> int:
        """Videos that are seen, each as often as it comes."""
        return self.num_steps * self.stage.settings.train.batch_size


def plan(curriculum: Curriculum) -> list[PlannedStage]:
    """Return what every stage will be, after all was looked at that can be refused before training.

    Raises:
      SettingsError: naming the stage (DataError is one).
    """
    planned = []
    for stage in curriculum.stages:
        with of_stage(stage.name):
            planned.append(_plan_stage(stage))
    return planned


def _plan_stage(stage: Stage) -> PlannedStage:
    settings = stage.settings
    definition = steps.define(settings)
    train_set, test_set = (catalog.load_dataset(settings.data, split) for split in ("train", "test"))
    definition, planned = fit_to_labels(definition, train_set), events.plan_run(definition, train_set)
    length = {"steps_per_epoch": planned.steps_per_epoch, "num_steps": planned.num_steps}
    optim.build_optimizer(settings.optimizer, definition.groups, **length)
    sharding.make_mesh(settings.train)
    sharding.check_shared("evaluation.batch_size", settings.evaluation.batch_size)
    evaluate.check_names(settings, definition.hierarchy.levels, test_set)
    return PlannedStage(stage, definition, planned.num_steps)
