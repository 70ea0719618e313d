"""The training of one run: set-up in named calls, then the loop, top to bottom.

Randomness and the data position are functions of the step, so a run resumed from a checkpoint repeats
the numbers of one that was never interrupted.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hvt_jax.data import catalog, pipeline
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.engine import optim, steps
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.engine.compilation import Compiled, compile_functions
from hvt_jax.engine.program_cache import keep_programs
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import evaluate
from hvt_jax.run import checkpoint as checkpoint_lib
from hvt_jax.run import metrics, preemption
from hvt_jax.run.bad_videos import BadVideos
from hvt_jax.run.events import Plan, events, plan_run
from hvt_jax.run.run_data import RunData
from hvt_jax.run.run_folder import RunFolder
from hvt_jax.run.run_log import RunLog
from hvt_jax.settings import Settings, SettingsError, read_settings

DONE, DIVERGED, COLLAPSED, PREEMPTED = 0, 3, 4, preemption.EXIT_CODE  # exit codes

_LOG = logging.getLogger(__name__)


# Puts `model.initial_weights` into a fresh state and notes what became of each level, see `interop.start`.
StartFrom = Callable[[Settings, TrainState, Callable[[str], object]], TrainState]


def train(config: ConfigDict, workdir: str, start_from: StartFrom | None = None) -> int:
    """Train as `config` says, in the run folder `workdir`, resuming what is there; return the exit code.

    Raises:
      SettingsError: the config or the data cannot be used (DataError is one, also for too many bad videos).
      RunFolderError: another run holds the folder.
      CheckpointError: the checkpoints do not fit the config, are all damaged, or cannot be written.
      MetricsError: W&B is asked for and cannot be used, or metrics.jsonl is damaged.
    """
    settings = read_settings(config)
    kept = keep_programs(settings.train.compilation_cache)
    definition = steps.define(settings)
    train_set, test_set = (catalog.load_dataset(settings.data, split) for split in ("train", "test"))
    definition = fit_to_labels(definition, train_set)
    plan = plan_run(definition, train_set)
    length = {"steps_per_epoch": plan.steps_per_epoch, "num_steps": plan.num_steps}
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, **length)
    compiled = compile_functions(definition, optimizer, num_steps=plan.num_steps)
    best = evaluate.check_names(settings, definition.hierarchy.levels, test_set)
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
        for line in folder.begin_anew() if restored_step is None else data.changes(folder.path):
            warn("%s", line)
        opened = {"restored_step": restored_step, "config": json.loads(config.to_json_best_effort())}
        with metrics.MetricWriter(folder.path, settings.logging, **opened) as writer:
            bad_videos = BadVideos(folder.path, (train_set, test_set), settings.data.max_bad_fraction, restored_step)
            folder.write_config(config, restored_step, plan.num_steps)
            folder.write_environment(settings.seed)
            data.write(folder.path)
            log = RunLog(settings, folder, writer, bad_videos=bad_videos, fingerprint=data.fingerprint, **length)
            log.announce(definition, (len(train_set), len(test_set)), restored_step, kept)
            run = Run(definition, plan, compiled, log, saved, folder, train_set, test_set, start_from)
            state = state or run.initialise()
            if restored_step and not log.knows_untrained:
                run.evaluate_untrained(restored_step, preempted)
            return run.train(state, restored_step, preempted)


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
    start_from: StartFrom | None = None

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

        `events` says what is due before a step, and in which order; resuming relies on it. A notice of preemption ends
        an evaluation; the resumed run makes it.
        """
        plan, compiled, log, key = self.plan, self.compiled, self.log, self.compiled.key()
        start, recorded = restored_step or 0, log.evaluated(restored_step) if restored_step is not None else None
        if recorded:
            with log.speed.paused():
                self._keep_scores(restored_step, state, recorded)
        for step in range(start, plan.num_steps + 1):
            stop = preempted.requested() or bool(log.bad_videos.excess)
            due = events(step, plan, restored=restored_step, evaluated=bool(recorded), stop=stop)
            if due.check:
                if (end := self._end_by_alarm(state, step)) is not None:
                    return end
                with log.speed.paused():
                    if due.save:
                        self.saved.save(step, state)
                    interrupted = due.evaluate and not self._evaluate(state, step, preempted)
                    log.bad_videos.share()
                if log.bad_videos.excess:
                    self._end_by_bad_videos(step)
                if due.stop or interrupted:
                    return self._end_preempted(step)
            if due.done:
                break
            batch = next(batches)
            log.note_problems(self.train_set, batch, step + 1)
            placed = compiled.to_devices({name: batch[name] for name in steps.batch_fields(self.definition)})
            with self._compiling("the training step") if step == start else contextlib.nullcontext():
                state, scalars = compiled.train_step(state, placed, key)
            if log.keep(step + 1, scalars):
                return self._end_diverged(state, step + 1)
            self.saved.poll()
        self.saved.wait()
        log.report(plan.num_steps, "done", state)
        return DONE

    def initialise(self) -> TrainState:
        """Return the state before the first step."""
        with self._compiling("the network"):
            state = self.compiled.initialise()
        settings = self.definition.settings
        if not settings.model.initial_weights:
            return state
        if self.start_from is None:
            raise SettingsError("config.model.initial_weights is read by python -m hvt_jax.main; start the run with it")
        return self.start_from(settings, state, self.log.note)

    @contextlib.contextmanager
    def _compiling(self, what: str) -> Iterator[None]:
        """Say that `what` is compiled while the body runs, and afterwards how long it took, if long."""
        start = time.perf_counter()
        with self.log.busy(f"compiling {what}"):
            yield
        if (seconds := time.perf_counter() - start) >= 1:
            self.log.note(f"compiled {what} in {seconds:.1f} s")

    def evaluate_untrained(self, step: int, preempted: preemption.Preemption) -> None:
        """Evaluate the network before its first step once more, on the videos of now, to compare with."""
        self.log.note("the untrained network has not been evaluated on these videos: it is, to compare with")
        if evaluation := self._evaluate_levels(self.initialise(), step, preempted):
            self.log.write_untrained(step, evaluation.scores)

    def training_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Return endless batches from that of `start_step` on; close them to end what decodes ahead."""
        settings = self.definition.settings
        views = self.definition.method.views(settings)
        return pipeline.train_batches(
            self.train_set,
            settings.data,
            None if views is None else views.plan,
            batch_size=settings.train.batch_size,
            seed=settings.seed,
            start_step=start_step,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    def _evaluate(self, state: TrainState, step: int, preempted: preemption.Preemption) -> bool:
        """Evaluate the levels, write what was found, and keep it; return whether it came to its end."""
        evaluation = self._evaluate_levels(state, step, preempted)
        if evaluation is None:
            return False
        self._keep_scores(step, state, self.log.write_evaluation(step, evaluation))
        return True

    def _keep_scores(self, step: int, state: TrainState, scores: dict[str, float]) -> None:
        """Add scores to the checkpoint of their step, and report them, if there are any."""
        if step and scores:
            self.saved.save(step, state, scores)
        if scores and step != self.plan.num_steps:
            self.log.report(step, "running")

    def _evaluate_levels(
        self, state: TrainState, step: int, preempted: preemption.Preemption
    ) -> evaluate.Evaluation | None:
        """Return how good the features of every level are now, or None after a notice of preemption."""

        def split(dataset: Dataset) -> evaluate.Split:
            note = functools.partial(self.log.note_problems, dataset, step=step)
            return evaluate.make_split(dataset, self.definition.settings, note)

        with self.log.busy(f"evaluating {len(self.train_set)} + {len(self.test_set)} videos"):
            return evaluate.evaluate_levels(
                lambda batch: self.compiled.encode(state.params, state.stats, batch),
                self.compiled.to_devices,
                split(self.train_set),
                split(self.test_set),
                self.definition.settings.evaluation,
                should_stop=preempted.requested,
            )

    def _end_by_alarm(self, state: TrainState, step: int) -> int | Collapse | None:
        """Return what follows from the numbers so far: an end, that the run goes back, or None."""
        if self.log.catch_up():
            return self._end_diverged(state, step)
        if (since := self.log.collapsed_since()) is None:
            return None
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

    def _end_by_bad_videos(self, step: int) -> None:
        self.saved.wait()
        self.log.report(step, "stopped")
        raise DataError(f"stopped at step {step}: {self.log.bad_videos.excess}")

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
