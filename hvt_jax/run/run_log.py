"""What a run says and leaves behind while it trains: metrics, bad videos, results, report."""

import collections
import os
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import alarms, optim, schedules
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.step_metrics import LONGEST_BAD_ROW
from hvt_jax.engine.steps import ROLLBACKS, Definition
from hvt_jax.evaluation import evaluate, verdict
from hvt_jax.evaluation import head as head_lib
from hvt_jax.evaluation import results as results_lib
from hvt_jax.objectives.methods import parameter_groups
from hvt_jax.run import describe, metrics, report, report_html
from hvt_jax.run.bad_videos import BadVideos
from hvt_jax.run.checkpoint import parameter_digest
from hvt_jax.run.first_process import is_first
from hvt_jax.run.run_folder import RunFolder
from hvt_jax.settings import Settings

Scalars = dict[str, jax.Array]
# Steps that the metrics lag behind what is dispatched. With two of them queued the device has work while this process
# fetches and loads; a fixed number, so that all processes, and a resumed run, see a divergence at the same step.
LAG_STEPS = 2


class RunLog:
    """The written side of one run.

    Metrics of a step are handed over as device arrays and fetched `LAG_STEPS` later, when the device
    already has the next steps to do: logging never makes it wait.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        writer: metrics.MetricWriter,
        *,
        bad_videos: BadVideos,
        steps_per_epoch: int,
        num_steps: int,
        fingerprint: int | None = None,
    ):
        self._settings, self._folder, self._writer = settings, folder, writer
        self._steps_per_epoch, self._num_steps = steps_per_epoch, num_steps
        self.bad_videos, self._fingerprint = bad_videos, fingerprint
        self._started = time.monotonic()
        self._seconds_before = max((record.get("time/seconds", 0.0) for record in self.records()), default=0.0)
        self._pending: collections.deque[tuple[int, Scalars]] = collections.deque()
        self._ceiling = results_lib.read_ceiling(settings.evaluation.supervised_ceiling)
        self._collapse: list[alarms.Alarm] = []
        self._told: int | None = None  # step of the evaluation that was printed last
        self.speed = metrics.Throughput(settings.train.batch_size, num_steps)
        self.note, self.busy = writer.note, writer.busy

    def announce(
        self, definition: Definition, sizes: tuple[int, int], restored_step: int | None, programs: str
    ) -> None:
        """Print what is about to be trained, on what and where.

        Args:
          definition: of the run.
          sizes: videos to train and to test on.
          restored_step: where the run goes on; None: it begins.
          programs: folder that keeps compiled programs; "" if none does.
        """
        settings, devices = self._settings, jax.devices()
        self.note(describe.describe(definition))
        self.note(
            f"devices   {len(devices)} x {devices[0].device_kind} in {jax.process_count()} process(es), "
            f"{'fsdp' if settings.train.fsdp else 'data parallel'}, {settings.model.compute_dtype}"
        )
        self.note(
            f"data      {settings.data.name}: {sizes[0]} training, {sizes[1]} test videos; batch "
            f"{settings.train.batch_size}, {self._steps_per_epoch} steps an epoch, {self._num_steps} in all"
        )
        if programs:
            self.note(f"programs  kept in {programs} for the next start (train.compilation_cache)")
        resumed = "" if restored_step is None else f", resumed at step {restored_step}"
        self.note(f"run       {self._folder.path}{resumed}")

    def records(self) -> list[dict[str, Any]]:
        """Return all records of metrics.jsonl so far."""
        path = os.path.join(self._folder.path, "metrics.jsonl")
        return metrics.read_metrics(path) if os.path.exists(path) else []

    def evaluated(self, step: int) -> dict[str, float] | None:
        """Return the scores written for `step`, or None if it was not evaluated yet on the videos of now."""
        found = [
            results_lib.scored_metrics(record)
            for record in self.records()
            if record["step"] == step and record.get(results_lib.FINGERPRINT) == self._fingerprint
        ]
        return next(filter(None, found), None)

    @property
    def knows_untrained(self) -> bool:
        """Whether the untrained network was evaluated on the videos of now."""
        return bool(results_lib.untrained_metrics(self.records(), self._fingerprint))

    def write_untrained(self, step: int, scores: results_lib.Scores) -> None:
        """Write the accuracies of the untrained network, evaluated once more at `step`, where the videos changed."""
        self._writer.write(step, {**results_lib.flatten_untrained(scores), **self._data()})

    def _data(self) -> dict[str, float]:
        return {} if self._fingerprint is None else {results_lib.FINGERPRINT: self._fingerprint}

    def keep(self, step: int, scalars: Scalars) -> bool:
        """Keep the metrics of `step`, just dispatched, and settle the step `LAG_STEPS` before it.

        Returns:
          whether a label had diverged by then, whichever steps are logged.
        """
        self._pending.append((step, scalars))
        scalars[LONGEST_BAD_ROW].copy_to_host_async()
        return self._settle(LAG_STEPS)

    def catch_up(self) -> bool:
        """Settle all steps, waiting for the device, as before a checkpoint; return whether a label has diverged."""
        return self._settle(0)

    def collapsed_since(self) -> int | None:
        """Return the step of the first bad check of a level that has collapsed; None if all is well or that only warns.

        To be asked after `catch_up`; with several processes by all of them.
        """
        if self._settings.alarms.action == "warn":
            return None
        if is_first():
            self._collapse = [alarm for alarm in alarms.find(self.records()) if alarm.is_collapse]
        since = min((alarm.since for alarm in self._collapse), default=-1)
        since = int(multihost_utils.broadcast_one_to_all(np.int32(since)))
        return None if since < 0 else since

    def go_back(self, step: int, target: int, rollbacks: int) -> None:
        """Drop the records after `target`, to which the run goes back from `step`, and write and print that it does."""
        for alarm in self._collapse:
            self.note(f"alarm     {alarm.text}")
        self._writer.rewind(target)
        # As of the next step: a run resumed at `target` itself knows nothing of it, and does it again.
        self._writer.write(target + 1, alarms.rollback_record(step, rollbacks, self._collapse))
        self.note(
            f"rollback  {rollbacks} of {self._settings.alarms.max_rollbacks}: from step {step} back to step {target}, "
            f"which was healthy, with {schedules.rate_scale(rollbacks):g} of the learning rates"
        )

    def _settle(self, lag: int) -> bool:
        """Write what is due of all steps but the latest `lag`; tell whether a row of bad updates reached the limit."""
        longest = 0
        while len(self._pending) > lag:
            step, scalars = self._pending.popleft()
            longest = int(scalars[LONGEST_BAD_ROW])  # the longest so far: a row that has ended counts, too
            if schedules.is_logged(step, self._settings.logging.interval_steps, self._num_steps):
                self._write(step, scalars)
        return longest >= self._settings.optimizer.max_bad_updates

    def _write(self, step: int, scalars: Scalars) -> None:
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self.speed.tick(step)
        rates = schedules.learning_rates(
            self._settings.optimizer,
            parameter_groups(self._settings),
            step - 1,
            steps_per_epoch=self._steps_per_epoch,
            num_steps=self._num_steps,
        )
        scale = schedules.rate_scale(int(values[ROLLBACKS]))
        values |= {f"learning_rate/{label}": rate * scale for label, rate in rates.items()}
        values |= {"epoch": step / self._steps_per_epoch, "time/seconds": self._seconds()}
        values["data/bad_videos"] = self.bad_videos.count(step)
        speed = self.speed.clips_per_second
        if speed is not None:
            values["speed/clips_per_second"] = speed
        self._writer.write(step, values)
        self._writer.progress(
            step,
            self._num_steps,
            loss=values["train/total"],
            clips_per_second=speed,
            eta_seconds=self.speed.eta_seconds,
        )

    def write_evaluation(self, step: int, evaluation: evaluate.Evaluation) -> dict[str, float]:
        """Write and print what was found at `step`; return it as metrics, empty if nothing was."""
        flat = results_lib.flatten_scores(evaluation.scores)
        if not flat:
            self.note(f"step {step}: not evaluated, no video of the training or of the test split can be read")
            return flat
        seconds = evaluation.feature_seconds, evaluation.probe_seconds
        times = {"time/feature_seconds": seconds[0], "time/probe_seconds": seconds[1]}
        found = {**flat, **(evaluation.head or {}), **self._data(), **times}
        self._writer.write(step, {"epoch": step / self._steps_per_epoch, **found})
        if is_first():
            brackets = "untrained | supervised" if self._ceiling else "untrained"
            spent = f"features {seconds[0]:.1f} s, neighbours and probes {seconds[1]:.1f} s"
            self.note(f"step {step}: top-1 ({brackets}), evaluated in {sum(seconds):.1f} s: {spent}")
            if evaluation.head:
                self.note(f"head top-1 {evaluation.head['test/top1']:.1f} % of the test videos")
            self._tell(self.records())
            self._told = step
        return flat

    def _tell(self, records: list[dict[str, Any]]) -> None:
        """Print what is known of every level and prediction."""
        for row in results_lib.by_level(results_lib.read_scores(records, self._ceiling)):
            self.note(verdict.sentence(*row))
        if edges := results_lib.read_edges(records):
            self.note(f"loss over that of the mean / of copying the source: {verdict.ratios(edges)}")

    def note_problems(self, dataset: Dataset, batch: dict[str, np.ndarray], step: int) -> None:
        """Name the damaged videos of a batch that is used at `step`, each once; their samples are masked."""
        for line in self.bad_videos.note(dataset, batch, step):
            self.note(f"bad video {line}; its samples are masked")

    def note_divergence(self, state: TrainState, step: int) -> None:
        """Say which labels diverged by `step`, and what is left."""
        limit, names = self._settings.optimizer.max_bad_updates, parameter_groups(self._settings)
        counters = optim.optimizer_statistics(state.opt_state)
        labels = ", ".join(label for label in names if int(counters[label]["longest"]) >= limit)
        self.note(
            f"diverged: {limit} updates in a row of {labels} were NaN or Inf by step {step}; the state is in "
            f"{self._folder.diverged}, earlier checkpoints are intact; lower optimizer.learning_rate"
        )

    def report(self, step: int, outcome: str, state: TrainState | None = None) -> None:
        """Write results.json and report.md as of `step`, and print the alarms that are new since the evaluation before.

        Args:
          step: number of updates done.
          outcome: see `report.write_report`; but while "running" the verdict on every level is printed too.
          state: the one to identify by digests, at the end; with several processes all must give it.
        """
        digests = {}
        if state is not None:
            digests["parameter_digest"] = parameter_digest(state.params)
            digests["state_digest"] = parameter_digest(state)  # optimizer and statistics too
        if not is_first():
            return
        records, prefix = self.records(), "skipped_updates/"
        last = next((record for record in reversed(records) if "train/total" in record), {})
        results = {
            "outcome": outcome,
            **results_lib.read_scores(records, self._ceiling),
            "edges": results_lib.read_edges(records),
            **({"head": head} if (head := head_lib.read_head(records)) else {}),
            "steps": step,
            "seconds": self._seconds(),
            "clips_per_second": self.speed.clips_per_second or last.get("speed/clips_per_second"),
            **digests,
            "rollbacks": int(last.get(ROLLBACKS, 0)),
            "bad_videos": self.bad_videos.lines,
            "skipped_updates": {n.removeprefix(prefix): int(v) for n, v in last.items() if n.startswith(prefix) and v},
        }
        warnings = [*alarms.rollbacks(records), *(alarm.text for alarm in alarms.find(records))]
        self._folder.write_results(results)
        report.write_report(self._folder.path, records, results, warnings)
        before = max((evaluated for evaluated in results_lib.evaluated_steps(records) if evaluated < step), default=-1)
        for alarm in alarms.find_new(records, before):
            self.note(f"alarm     {alarm.text}")
        if outcome == "running":
            return
        report_html.write_html(self._folder.path)
        if step != self._told:
            self._tell(records)
        self.note(f"results   {os.path.join(self._folder.path, 'results.json')} and report.md")

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started
