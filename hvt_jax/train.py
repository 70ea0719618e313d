"""The training of one run: set-up in named calls, then the loop, top to bottom.

Randomness and the data position are functions of the step, so a run resumed from a checkpoint repeats
the numbers of one that was never interrupted.
"""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from hvt_jax.data import catalog, pipeline
from hvt_jax.data.sources import Dataset
from hvt_jax.engine import checkpoint as checkpoint_lib
from hvt_jax.engine import describe, metrics, monitors, optim, preemption, schedules, sharding, steps
from hvt_jax.engine.run_folder import RunFolder, write_json
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import judge, report
from hvt_jax.settings import Settings, SettingsError, read_settings

DONE, DIVERGED, PREEMPTED = 0, 3, preemption.EXIT_CODE  # exit codes

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is and when it is judged, in steps."""

    steps_per_epoch: int
    num_steps: int
    evaluations: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled functions of a run and how arrays are placed for them."""

    mesh: jax.sharding.Mesh
    initialise: Callable[[], TrainState]
    train_step: Callable
    encode: Callable
    abstract_state: TrainState

    def to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Place this process's share of a batch."""
        return sharding.to_devices(batch, self.mesh)


def train(config: ConfigDict, workdir: str) -> int:
    """Train as `config` says, in the run folder `workdir`, resuming what is there; return the exit code.

    Raises:
      SettingsError: the config or the data cannot be used (DataError is one).
      RunFolderError: another run holds the folder.
      CheckpointError: the checkpoints do not fit the config, are all damaged, or cannot be written.
      MetricsError: W&B is asked for and cannot be used, or metrics.jsonl is damaged.
    """
    settings = read_settings(config)
    definition = steps.define(settings)
    train_set, test_set = (catalog.load_dataset(settings.data, split) for split in ("train", "test"))
    plan = plan_run(settings, train_set)
    optimizer = optim.build_optimizer(
        settings.optimizer, definition.hierarchy, steps_per_epoch=plan.steps_per_epoch, num_steps=plan.num_steps
    )
    compiled = compile_functions(definition, optimizer, plan)
    best = settings.checkpoint.best_metric or f"knn/{definition.hierarchy[-1]}/top1"
    warn = _LOG.warning
    with (
        RunFolder(workdir, warn=warn) as folder,
        checkpoint_lib.Checkpoints(folder.checkpoints, settings.checkpoint, best_metric=best, warn=warn) as saved,
        preemption.Preemption() as preempted,
    ):
        report_changes(folder, config)
        state, restored_step = restore_or_initialise(compiled, saved)
        folder.write_config(config)
        folder.write_environment(settings.seed)
        with metrics.MetricWriter(
            folder.path, settings.logging, restored_step=restored_step, config=json.loads(config.to_json_best_effort())
        ) as writer:
            run = Run(settings, definition, plan, compiled, folder, saved, writer, train_set, test_set)
            run.announce(restored_step)
            return run.loop(state, restored_step, preempted)


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


def compile_functions(definition: Definition, optimizer: optax.GradientTransformation, plan: Plan) -> Compiled:
    """Return the run's functions, compiled for the mesh of all devices; the state is born sharded."""
    settings = definition.settings
    mesh = sharding.make_mesh(settings.train)
    whole, cut = sharding.replicated(mesh), sharding.by_batch(mesh)
    initialise = steps.build_initialise(definition, optimizer)
    abstract = jax.eval_shape(initialise, jax.random.key(0))
    placed = sharding.state_sharding(abstract, mesh, settings.train)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, placed)
    train_step = jax.jit(
        steps.build_train_step(definition, optimizer, num_steps=plan.num_steps),
        in_shardings=(placed, cut, whole),
        out_shardings=(placed, whole),
        donate_argnums=0,
    )
    encode_videos = steps.build_encode(definition)

    def encode(params, stats, batch):
        # Index and validity come back whole on every process, in the order of the features.
        return {**encode_videos(params, stats, batch["video"]), "index": batch["index"], "valid": batch["valid"]}

    compiled_encode = jax.jit(encode, in_shardings=(placed.params, placed.stats, cut), out_shardings=whole)
    born = jax.jit(initialise, out_shardings=placed)
    return Compiled(mesh, lambda: born(jax.random.key(settings.seed)), train_step, compiled_encode, abstract)


def report_changes(folder: RunFolder, config: ConfigDict) -> None:
    """Say which fields differ from those the folder was trained with."""
    for line in folder.changed_fields(config):
        _LOG.warning("%s", line)


def restore_or_initialise(
    compiled: Compiled, saved: checkpoint_lib.Checkpoints
) -> tuple[TrainState, int | None]:
    """Return (state, step it was saved at), or a fresh state and None if nothing was saved yet."""
    restored = saved.restore(compiled.abstract_state)
    if restored is None:
        return compiled.initialise(), None
    step, state, _ = restored
    return state, step


class Run:
    """One training run: what the loop needs between its steps."""

    def __init__(self, settings, definition, plan, compiled, folder, saved, writer, train_set, test_set):
        self.settings, self.definition, self.plan, self.compiled = settings, definition, plan, compiled
        self.folder, self.saved, self.writer = folder, saved, writer
        self.train_set, self.test_set = train_set, test_set
        self.bad_videos: set[str] = set(self._read_bad_videos())
        self.scores: judge.Scores = {}
        self.speed = metrics.Throughput(settings.train.batch_size, plan.num_steps)
        self.started, self.seconds_before = time.monotonic(), 0.0

    def announce(self, restored_step: int | None) -> None:
        """Print what is about to be trained, on what and where."""
        plan, note = self.plan, self.writer.note
        note(describe.describe(self.definition))
        devices = jax.devices()
        note(
            f"devices   {len(devices)} x {devices[0].device_kind} in {jax.process_count()} process(es), "
            f"{'fsdp' if self.settings.train.fsdp else 'data parallel'}, {self.settings.model.compute_dtype}"
        )
        note(
            f"data      {self.settings.data.name}: {len(self.train_set)} training, {len(self.test_set)} test videos; "
            f"batch {self.settings.train.batch_size}, {plan.steps_per_epoch} steps an epoch, {plan.num_steps} in all"
        )
        note(f"run       {self.folder.path}" + ("" if restored_step is None else f", resumed at step {restored_step}"))

    def loop(self, state: TrainState, restored_step: int | None, preempted: preemption.Preemption) -> int:
        """Train to the end, a preemption or divergence; return the exit code."""
        settings, plan, compiled = self.settings, self.plan, self.compiled
        key = jax.device_put(jax.random.key(settings.seed), sharding.replicated(compiled.mesh))
        start = restored_step or 0
        records = self._records()
        self.seconds_before = max((record.get("time/seconds", 0.0) for record in records), default=0.0)
        batches = pipeline.train_batches(
            self.train_set,
            settings.data,
            batch_size=settings.train.batch_size,
            seed=settings.seed,
            start_step=start,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        pending: tuple[int, dict[str, jax.Array]] | None = None  # metrics of the step before, still on the device
        self.speed.tick(start)
        for step in range(start, plan.num_steps + 1):
            # Evaluate, then checkpoint, then take the next batch: a checkpoint holds what was judged.
            stop = preempted.requested(step)
            is_last = step == plan.num_steps
            is_evaluated = step in plan.evaluations
            if is_evaluated or stop or is_last or (step and step % settings.checkpoint.interval_steps == 0):
                if self._write(pending):
                    return self._end_diverged(state, step)
                pending = None
                with self.speed.paused():
                    found = self._evaluate(state, step) if is_evaluated else None
                    if step and step != restored_step:
                        self.saved.save(step, state, found)
            if stop and not is_last:
                self.saved.wait()
                self.writer.note(f"preempted: saved step {step} in {self.folder.checkpoints}; run again to go on")
                return PREEMPTED
            if is_last:
                break
            batch = next(batches)
            self._note_problems(self.train_set, batch)
            wanted = {name: batch[name] for name in ("video", "valid")}
            state, scalars = compiled.train_step(state, compiled.to_devices(wanted), key)
            # The metrics of the step before are fetched now that the device has the next one to do.
            if self._write(pending):
                return self._end_diverged(state, step + 1)
            is_logged = step == 0 or (step + 1) % settings.logging.interval_steps == 0
            pending = (step + 1, scalars) if is_logged else None
            self.saved.poll()
        self.saved.wait()
        self._finish(state)
        return DONE

    def _write(self, pending: tuple[int, dict[str, jax.Array]] | None) -> bool:
        """Write the metrics of a step that was logged; return whether a label has diverged."""
        if pending is None:
            return False
        step, scalars = pending
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self.speed.tick(step)
        rates = schedules.learning_rates(
            self.settings.optimizer,
            self.definition.hierarchy,
            step - 1,
            steps_per_epoch=self.plan.steps_per_epoch,
            num_steps=self.plan.num_steps,
        )
        values |= {f"learning_rate/{label}": rate for label, rate in rates.items()}
        values |= {"epoch": step / self.plan.steps_per_epoch, "time/seconds": self._seconds()}
        clips_per_second = self.speed.clips_per_second
        if clips_per_second is not None:
            values["speed/clips_per_second"] = clips_per_second
        values["data/bad_videos"] = len(self.bad_videos)
        self.writer.write(step, values)
        self.writer.progress(
            step,
            self.plan.num_steps,
            loss=values["train/total"],
            clips_per_second=clips_per_second,
            eta_seconds=self.speed.eta_seconds,
        )
        limit = self.settings.optimizer.max_bad_updates
        return any(value >= limit for name, value in values.items() if name.startswith("consecutive_updates/"))

    def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Judge every level by kNN and write it, unless a run before this one did; return the metrics."""
        known = [record for record in self._records() if record["step"] == step and _is_judged(record)]
        is_last = step == self.plan.num_steps
        if known and not is_last:
            return {name: value for name, value in known[-1].items() if name.startswith("knn/")}
        self.scores = judge.judge_levels(
            lambda batch: self.compiled.encode(state.params, state.stats, batch),
            self.compiled.to_devices,
            self._split(self.train_set),
            self._split(self.test_set),
            self.settings.evaluation,
        )
        flat = judge.flatten_scores(self.scores)
        if not known:
            self.writer.write(step, {"epoch": step / self.plan.steps_per_epoch, **flat})
        names = [name for name in flat if name.endswith("top1")]
        self.writer.note(f"step {step}: " + "  ".join(f"{name[4:-5]} {flat[name]:.1f} %" for name in names))
        return flat

    def _split(self, dataset: Dataset) -> judge.Split:
        def batches():
            return pipeline.evaluation_batches(
                dataset,
                self.settings.data,
                batch_size=self.settings.evaluation.batch_size,
                host=jax.process_index(),
                hosts=jax.process_count(),
            )

        num_classes = {name: len(names) for name, names in dataset.label_names.items()}
        return judge.Split(dataset.labels, num_classes, batches, lambda batch: self._note_problems(dataset, batch))

    def _note_problems(self, dataset: Dataset, batch: dict[str, np.ndarray]) -> None:
        """Name damaged videos in the log, each once; their samples are masked."""
        if not batch["problem"].any():
            return
        new = [line for line in pipeline.describe_problems(dataset, batch) if line not in self.bad_videos]
        for line in new:
            self.writer.note(f"bad video {line}; its samples are masked")
        self.bad_videos.update(new)
        if new and jax.process_index() == 0:
            write_json(self._bad_videos_path(), sorted(self.bad_videos))

    def _bad_videos_path(self) -> str:
        return os.path.join(self.folder.path, "bad_videos.json")

    def _read_bad_videos(self) -> list[str]:
        if not os.path.exists(self._bad_videos_path()):
            return []
        with open(self._bad_videos_path(), encoding="utf-8") as file:
            return json.load(file)

    def _records(self) -> list[dict[str, Any]]:
        path = os.path.join(self.folder.path, "metrics.jsonl")
        return metrics.read_metrics(path) if os.path.exists(path) else []

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _end_diverged(self, state: TrainState, step: int) -> int:
        self.saved.wait()
        checkpoint_lib.save_diverged(self.folder.diverged, step, state)
        limit = self.settings.optimizer.max_bad_updates
        self.writer.note(
            f"diverged: {limit} updates in a row were NaN or Inf by step {step}; the state is in "
            f"{self.folder.diverged}, the checkpoints before it are intact; lower optimizer.learning_rate"
        )
        self._write_results(state, step, outcome="diverged")
        return DIVERGED

    def _finish(self, state: TrainState) -> None:
        results = self._write_results(state, self.plan.num_steps, outcome="done")
        for level, sets in results["knn"].items():
            for name, scores in sets.items():
                self.writer.note(report.sentence(level, name, scores))
        self.writer.note(f"results   {os.path.join(self.folder.path, 'results.json')} and report.md")

    def _write_results(self, state: TrainState, step: int, *, outcome: str) -> dict[str, Any]:
        records = self._records()
        digest = checkpoint_lib.parameter_digest(state.params)
        untrained = next((record for record in records if record["step"] == 0 and _is_judged(record)), None)
        last = next((record for record in reversed(records) if "train/total" in record), {})
        skipped = {
            name.removeprefix("skipped_updates/"): int(value)
            for name, value in last.items()
            if name.startswith("skipped_updates/") and value
        }
        results = {
            "outcome": outcome,
            "knn": judge.with_untrained(self.scores, untrained),
            "steps": step,
            "seconds": self._seconds(),
            "clips_per_second": self.speed.clips_per_second,
            "parameter_digest": digest,
            "bad_videos": sorted(self.bad_videos),
            "skipped_updates": skipped,
        }
        self.folder.write_results(results)
        if jax.process_index() == 0:
            report.write_report(self.folder.path, records, results, monitors.alarms(records))
        return results


def _is_judged(record: dict[str, Any]) -> bool:
    return any(name.startswith("knn/") for name in record)
