"""What is due at a step of a run: a pure function of the step, the plan and what is known."""

import dataclasses
import math
from typing import NamedTuple

from hvt_jax.data import pipeline
from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import schedules
from hvt_jax.engine.steps import Definition
from hvt_jax.settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is and what happens when, in steps.

    Attributes:
      steps_per_epoch: as `pipeline.steps_per_epoch`.
      num_steps: of the whole run.
      evaluations: steps at which the levels are evaluated.
      save_interval: steps from one checkpoint to the next.
    """

    steps_per_epoch: int
    num_steps: int
    evaluations: frozenset[int]
    save_interval: int


class Events(NamedTuple):
    """What is due after `step` updates, before the next one, in this order.

    Which updates are logged is said by `schedules.is_logged`, because the compiled step asks that, too.

    Attributes:
      check: whether the numbers of all steps before are looked at: divergence, collapse, too many bad videos.
      save: whether a checkpoint is written.
      evaluate: whether the levels are evaluated.
      stop: whether the run was told to end and has something left to do, which the next start does.
      done: whether this is the end.
    """

    check: bool
    save: bool
    evaluate: bool
    stop: bool
    done: bool


def plan_run(definition: Definition, train_set: Dataset) -> Plan:
    """Return the plan of a run; the levels are evaluated at step 0, by schedule, and at the end.

    Raises:
      SettingsError: if there is no step to make.
    """
    settings = definition.settings
    views, batch_size = definition.method.views(settings), settings.train.batch_size
    steps_per_epoch = pipeline.steps_per_epoch(train_set, settings.data, batch_size, views and views.plan)
    num_steps = math.ceil(settings.train.num_epochs * steps_per_epoch)
    if settings.train.max_steps:
        num_steps = min(num_steps, settings.train.max_steps)
    if num_steps < 1:
        raise SettingsError(f"train.num_epochs = {settings.train.num_epochs} makes no step; use more")
    evaluation = settings.evaluation
    epochs = schedules.validation_epochs(evaluation.schedule, evaluation.interval, math.ceil(settings.train.num_epochs))
    due = {min(epoch * steps_per_epoch, num_steps) for epoch in epochs}
    return Plan(steps_per_epoch, num_steps, frozenset(due | {0, num_steps}), settings.checkpoint.interval_steps)


def events(step: int, plan: Plan, *, restored: int | None, evaluated: bool, stop: bool) -> Events:
    """Return what is due at `step`.

    Args:
      step: updates done.
      plan: of the run.
      restored: step of the checkpoint that the run went on from, None at the beginning.
      evaluated: whether the levels were evaluated at the restored step, before it was restored.
      stop: whether the run was told to end, by a signal or for bad videos.
    """
    unevaluated = step in plan.evaluations and not (step == restored and evaluated)
    notable = unevaluated or stop or (step > 0 and step % plan.save_interval == 0)
    done = step == plan.num_steps
    return Events(
        check=notable or step == restored,
        save=notable and 0 < step != restored,
        evaluate=unevaluated and not stop,
        stop=stop and (unevaluated or not done),
        done=done,
    )
