"""The training of one run: set-up in named calls, then the loop, top to bottom.

Randomness and the data position are functions of the step, so a run resumed from a checkpoint repeats
the numbers of one that was never interrupted.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from hvt_jax.data import catalog, pipeline
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.engine import optim, schedules, steps
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.engine.compilation import Compiled, compile_functions
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import judge
from hvt_jax.run import checkpoint as checkpoint_lib
from hvt_jax.run import metrics, preemption
from hvt_jax.run.bad_videos import BadVideos
from hvt_jax.run.run_data import RunData
from hvt_jax.run.run_folder import RunFolder
from hvt_jax.run.run_log import RunLog
from hvt_jax.settings import Settings, SettingsError, read_settings

DONE, DIVERGED, COLLAPSED, PREEMPTED = 0, 3, 4, preemption.EXIT_CODE  # exit codes

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is and when it is judged, in steps."""

    steps_per_epoch: int
    num_steps: int
    evaluations: frozenset[int]


def train(config: ConfigDict, workdir: str) -> int:
    """Train as `config` says, in the run folder `workdir`, resuming what is there; return the exit code.

    Raises:
      SettingsError: the config or the data cannot be used (DataError is one, also for too many bad videos).
      RunFolderError: another run holds the folder.
      CheckpointError: the checkpoints do not fit the config, are all damaged, or cannot be written.
      MetricsError: W&B is asked for and cannot be used, or metrics.jsonl is damaged.
    """
    settings = read_settings(config)
    definition = steps.define(settings)
    train_set, test_set = (catalog.load_dataset(settings.data, split) for split in ("train", "test"))
    definition = fit_to_labels(definition, train_set)
    plan = plan_run(settings, train_set)
    compiled = compile_functions(definition, build_optimizer(definition, plan), num_steps=plan.num_steps)
    best = judge.check_names(settings, definition.hierarchy.levels, test_set)
    data, warn = RunData({"train": train_set, "test": test_set}), _LOG.warning
    keep = {"best_metric": best, "tests": data.fingerprint}
    with (
        RunFolder(workdir, warn=warn) as folder,
        checkpoint_lib.Checkpoints(folder.checkpoints, settings.checkpoint, **keep, warn=warn) as saved,
        preemption.Preemption() as preempted,
    ):
        for line in folder.changed_fields(config):
            warn("%s", line)
        restored_step, state, _ = saved.restore(compiled.abstract_state) or (None, None, None)
        if restored_step is not None and restored_step > plan.num_steps:
            raise SettingsError(
                f"{folder.path} is at step {restored_step}, but this config ends at {plan.num_steps}; "
                "raise train.num_epochs or train.max_steps, or give another --workdir"
            )
        as_json = json.loads(config.to_json_best_effort())
        # It moves what an earlier run left out of the way, so nothing is written before.
        with metrics.MetricWriter(folder.path, settings.logging, restored_step=restored_step, config=as_json) as writer:
            bad_videos = BadVideos(folder.path, (train_set, test_set), settings.data.max_bad_fraction, restored_step)
            for line in data.changes(folder.path) if restored_step is not None else ():
                warn("%s", line)
            folder.write_config(config)
            folder.write_environment(settings.seed)
            data.write(folder.path)
            length = {"steps_per_epoch": plan.steps_per_epoch, "num_steps": plan.num_steps}
            log = RunLog(settings, folder, writer, bad_videos=bad_videos, fingerprint=data.fingerprint, **length)
            log.announce(definition, (len(train_set), len(test_set)), restored_step)
            run = Run(definition, plan, compiled, log, saved, folder, train_set, test_set)
            state = state or run.initialise()
            if restored_step and not log.knows_untrained:
                run.judge_untrained(restored_step, preempted)
            return run.train(state, restored_step, preempted)


def plan_run(settings: Settings, train_set: Dataset) -> Plan:
    """Return the length of the run in steps; the levels are judged at step 0, by schedule, and at the end."""
    steps_per_epoch = pipeline.steps_per_epoch(train_set, settings.data, settings.train.batch_size)
    num_steps = math.ceil(settings.train.num_epochs * steps_per_epoch)
    if settings.train.max_steps:
        num_steps = min(num_steps, settings.train.max_steps)
    if num_steps < 1:
        raise SettingsError(f"train.num_epochs = {settings.train.num_epochs} makes no step; use more")
    evaluation = settings.evaluation
    epochs = schedules.validation_epochs(evaluation.schedule, evaluation.interval, math.ceil(settings.train.num_epochs))
    due = {min(epoch * steps_per_epoch, num_steps) for epoch in epochs}
    return Plan(steps_per_epoch, num_steps, frozenset(due | {0, num_steps}))


def build_optimizer(definition: Definition, plan: Plan) -> optax.GradientTransformation:
    """Return the run's optimizer; a mistake in its settings is a SettingsError."""
    try:
        length = {"steps_per_epoch": plan.steps_per_epoch, "num_steps": plan.num_steps}
        return optim.build_optimizer(definition.settings.optimizer, definition.groups, **length)
    except ValueError as error:
        raise SettingsError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Collapse:
    """A level collapsed by `step`, first seen at `since`, and the run shall go back for the `rollbacks`-th time."""

    step: int
    since: int
    rollbacks: int


@dataclasses.dataclass
class Run:
    """One run between set-up and end: the loop and what it needs."""

    definition: Definition
    plan: Plan
    compiled: Compiled
    log: RunLog
    saved: checkpoint_lib.Checkpoints
    folder: RunFolder
    train_set: Dataset
    test_set: Dataset

    def train(self, state: TrainState, restored_step: int | None, preempted: preemption.Preemption) -> int:
        """Train to an end, from an earlier step again where an alarm asks for it; return the exit code."""
        while True:
            with contextlib.closing(self.training_batches(restored_step or 0)) as batches:
                end = self.loop(state, restored_step, batches, preempted)
            if not isinstance(end, Collapse):
                return end
            restored_step, state = self._go_back(end)

    def loop(
        self,
        state: TrainState,
        restored_step: int | None,
        batches: Iterator[dict[str, np.ndarray]],
        preempted: preemption.Preemption,
    ) -> int | Collapse:
        """Train to the end, a preemption, divergence or collapse; return the exit code, or why the run shall go back.

        Order of a step, which resuming relies on: write the metrics of the steps before, look for alarms, checkpoint,
        evaluate, take the next batch, dispatch it. A notice of preemption ends a judgement; the resumed run makes it.
        """
        settings, plan, compiled, log = self.definition.settings, self.plan, self.compiled, self.log
        key, start = compiled.key(), restored_step or 0
        for step in range(start, plan.num_steps + 1):
            stop, is_last = preempted.requested() or bool(log.bad_videos.excess), step == plan.num_steps
            # Only the restored step can have been judged before.
            known = log.judged(step) if step == restored_step else None
            is_due = step in plan.evaluations and not known
            if is_due or known or stop or (step and step % settings.checkpoint.interval_steps == 0):
                if log.catch_up():
                    return self._end_diverged(state, step)
                if (since := log.collapsed_since()) is not None:
                    return self._collapse(state, step, since)
                with log.speed.paused():
                    if step and step != restored_step:
                        self.saved.save(step, state)
                    if is_due and not stop:
                        judgement = self._judge(state, step, preempted)
                        is_due = stop = judgement is None
                        known = None if judgement is None else log.write_judgement(step, judgement)
                    if step and known:  # adds the metrics to the checkpoint
                        self.saved.save(step, state, known)
                    log.bad_videos.share()
                    if known and not is_last:
                        log.report(step, "running")
            if log.bad_videos.excess:
                self.saved.wait()
                log.report(step, "stopped")
                raise DataError(f"stopped at step {step}: {log.bad_videos.excess}")
            if stop and (is_due or not is_last):
                return self._end_preempted(step)
            if is_last:
                break
            batch = next(batches)
            log.note_problems(self.train_set, batch, step + 1)
            placed = compiled.to_devices({name: batch[name] for name in steps.batch_fields(self.definition)})
            with log.busy("compiling the training step") if step == start else contextlib.nullcontext():
                state, scalars = compiled.train_step(state, placed, key)
            if log.keep(step + 1, scalars):
                return self._end_diverged(state, step + 1)
            self.saved.poll()
        self.saved.wait()
        log.report(plan.num_steps, "done", state)
        return DONE

    def initialise(self) -> TrainState:
        """Return the state before the first step."""
        with self.log.busy("compiling the network"):
            return self.compiled.initialise()

    def judge_untrained(self, step: int, preempted: preemption.Preemption) -> None:
        """Judge the network before its first step once more, on the videos of now, to compare with."""
        self.log.note("the untrained network has not been judged on these videos: it is, to compare with")
        if judgement := self._judge(self.initialise(), step, preempted):
            self.log.write_untrained(step, judgement.scores)

    def training_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Return endless batches from that of `start_step` on; close them to end what decodes ahead."""
        settings = self.definition.settings
        return pipeline.train_batches(
            self.train_set,
            settings.data,
            batch_size=settings.train.batch_size,
            seed=settings.seed,
            start_step=start_step,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    def _judge(self, state: TrainState, step: int, preempted: preemption.Preemption) -> judge.Judgement | None:
        """Return how good the features of every level are now, or None after a notice of preemption."""

        def split(dataset: Dataset) -> judge.Split:
            note = functools.partial(self.log.note_problems, dataset, step=step)
            return judge.make_split(dataset, self.definition.settings, note)

        with self.log.busy(f"judging {len(self.train_set)} + {len(self.test_set)} videos"):
            return judge.judge_levels(
                lambda batch: self.compiled.encode(state.params, state.stats, batch),
                self.compiled.to_devices,
                split(self.train_set),
                split(self.test_set),
                self.definition.settings.evaluation,
                should_stop=preempted.requested,
            )

    def _collapse(self, state: TrainState, step: int, since: int) -> int | Collapse:
        """Return what follows from an alarm that is on: an end, or that the run goes back."""
        alarms, rollbacks = self.definition.settings.alarms, int(state.rollbacks)
        if alarms.action == "rollback" and rollbacks < alarms.max_rollbacks:
            return Collapse(step, since, rollbacks + 1)
        self.saved.wait()
        tried = f", after {rollbacks} rollback(s)" if rollbacks else ""
        self.log.note(
            f"collapsed: stopped at step {step}{tried}; earlier checkpoints are intact; lower optimizer.learning_rate "
            "or raise objective.regularizer_weight"
        )
        self.log.report(step, "collapsed", state)
        return COLLAPSED

    def _go_back(self, collapse: Collapse) -> tuple[int, TrainState]:
        """Return step and state of the last checkpoint before a collapse, with half the learning rates."""
        abstract = self.compiled.abstract_state
        restored = self.saved.restore_before(abstract, collapse.since)
        step, state = restored[:2] if restored else (0, self.initialise())
        self.log.go_back(collapse.step, step, collapse.rollbacks)
        count = jax.jit(lambda: jnp.int32(collapse.rollbacks), out_shardings=abstract.rollbacks.sharding)
        return step, state.replace(rollbacks=count())

    def _end_preempted(self, step: int) -> int:
        self.saved.wait()
        if step:
            self.log.note(f"preempted at step {step}, which is saved; run the same command again to go on")
        else:
            self.log.note("preempted before the first step, so there is nothing to save; run the same command again")
        self.log.report(step, "preempted")
        return PREEMPTED

    def _end_diverged(self, state: TrainState, step: int) -> int:
        self.log.catch_up()
        self.saved.wait()
        checkpoint_lib.save_diverged(self.folder.diverged, step, state)
        self.log.note_divergence(state, step)
        self.log.report(step, "diverged", state)
        return DIVERGED
