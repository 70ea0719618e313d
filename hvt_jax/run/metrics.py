"""Where the numbers of a run go: console, `metrics.jsonl`, TensorBoard, and Weights & Biases if asked."""

import contextlib
import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, TextIO

import rich.console

from hvt_jax import disk
from hvt_jax.run.event_file import EventFile
from hvt_jax.run.first_process import in_first, is_first
from hvt_jax.run.progress import Progress
from hvt_jax.run.run_folder import ELSEWHERE, RunFolderError, json_safe, write_json
from hvt_jax.run.throughput import Throughput as Throughput
from hvt_jax.settings import LoggingSettings

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsError(RuntimeError):
    """Metrics that cannot be written; the message names the remedy."""


class MetricWriter:
    """Fan-out of a run's scalars; only process 0 writes, the others' calls do nothing.

    Values are taken as they are: fetch them from the device before (a step late, so that logging never waits).
    Write the metrics of a step before the checkpoint of that step is saved; then every line up to the restored
    step is in `metrics.jsonl` and a resumed run's file reads like an uninterrupted run's.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: LoggingSettings,
        *,
        restored_step: int | None = None,
        config: Mapping[str, Any] | None = None,
        console: rich.console.Console | None = None,
    ):
        """Open the sinks in the run folder.

        Args:
          folder: the run folder; gets `metrics.jsonl`, `tb/` and, with W&B, `wandb.json` and `wandb/`.
          settings: which sinks are used.
          restored_step: step of the restored checkpoint; later lines are dropped. None starts all anew.
          config: shown by W&B.
          console: standard output if None.

        Raises:
          MetricsError: if W&B is asked for and cannot be used, or a file cannot be written.
        """
        self._is_writer = is_first()
        self._tensorboard = self._wandb = self._jsonl = None
        self._progress = Progress(console or rich.console.Console(highlight=False))
        failure = MetricsError("process 0 could not open the logs; its own message says why")
        try:
            in_first(lambda: self._open(folder, settings, restored_step, config), failure)
        except OSError as error:
            self.close()
            raise MetricsError(disk.explain(error, error.filename or folder, ELSEWHERE)) from error
        except (MetricsError, RunFolderError):
            self.close()
            raise

    def _open(self, folder, settings: LoggingSettings, restored_step: int | None, config) -> None:
        first_step = 0 if restored_step is None else restored_step + 1
        self._paths = os.path.join(folder, "metrics.jsonl"), os.path.join(folder, "tb")
        with disk.refusals_as(MetricsError, self._paths[0], ELSEWHERE):
            self._jsonl = _open_jsonl(self._paths[0], first_step)
        if settings.tensorboard:
            with disk.refusals_as(MetricsError, self._paths[1], ELSEWHERE):
                self._tensorboard = EventFile(self._paths[1], first_step)
        if settings.wandb:
            self._wandb = _start_wandb(folder, settings.wandb_project, config, resumed=restored_step is not None)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write scalars by name, such as `train/frame->clip/up`, to every sink but the console.

        Args:
          step: number of updates done.
          metrics: numbers or 0-d arrays on the host; non-finite ones become strings in `metrics.jsonl`.

        Raises:
          MetricsError: if a file cannot be written.
        """
        if not self._is_writer:
            return
        step, values = int(step), {name: float(value) for name, value in metrics.items()}
        line = json.dumps(json_safe({"step": step} | values), allow_nan=False) + "\n"
        with disk.refusals_as(MetricsError, self._paths[0], ELSEWHERE):
            self._jsonl.write(line)
            self._jsonl.flush()
        plain = {_plain_name(name): value for name, value in values.items()}
        if self._tensorboard is not None:
            finite = {name: value for name, value in plain.items() if math.isfinite(value)}  # it draws no others
            with disk.refusals_as(MetricsError, self._paths[1], ELSEWHERE):
                self._tensorboard.write(step, finite)
        if self._wandb is not None:
            self._wandb.log(plain | {"global_step": step})

    def rewind(self, step: int) -> None:
        """Drop what was written of steps after `step`, as a resume there does.

        Raises:
          MetricsError: if a file cannot be written.
        """
        if not self._is_writer:
            return
        with disk.refusals_as(MetricsError, self._paths[0], ELSEWHERE):
            self._jsonl.close()
            self._jsonl = _open_jsonl(self._paths[0], step + 1)
        if self._tensorboard is not None:
            with disk.refusals_as(MetricsError, self._paths[1], ELSEWHERE):
                self._tensorboard.close()
                self._tensorboard = EventFile(self._paths[1], step + 1)

    def progress(
        self, step: int, total_steps: int, *, loss: float, clips_per_second: float | None, eta_seconds: float | None
    ) -> None:
        """Show one line: live on a terminal, else printed. Unknown speed and time are shown as `--`."""
        if not self._is_writer:
            return
        speed = "--" if clips_per_second is None else f"{clips_per_second:.{0 if clips_per_second >= 10 else 2}f}"
        eta = "--" if eta_seconds is None else str(datetime.timedelta(seconds=round(eta_seconds)))
        self._progress.show(f"step {step}/{total_steps}  loss {float(loss):.4f}  {speed} clips/s  ETA {eta}")

    def busy(self, line: str) -> contextlib.AbstractContextManager[None]:
        """Say what takes long, as long as it takes: live on a terminal; elsewhere printed, but each line once only."""
        return self._progress.busy(line) if self._is_writer else contextlib.nullcontext()

    def note(self, line: str) -> None:
        """Print a line that stays, above the live one."""
        if self._is_writer:
            self._progress.note(line)

    def close(self) -> None:
        """Flush and close every sink; may be called twice."""
        self._progress.close()
        # Every line of metrics.jsonl was flushed when it was written: what is refused now was refused, and raised,
        # before. It has all that the last seconds of TensorBoard's file may lack.
        with contextlib.suppress(OSError):
            if self._jsonl is not None:
                self._jsonl.close()
        with contextlib.suppress(OSError):
            if self._tensorboard is not None:
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._is_writer, self._jsonl, self._tensorboard, self._wandb = False, None, None, None


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the records of a `metrics.jsonl` in file order, each with its `step`; "nan" and "inf" are floats again.

    A torn last line, as a killed run leaves it, is passed over.

    Raises:
      MetricsError: if another line is damaged; names it.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            int(record["step"])
            records.append({name: _NON_FINITE.get(value, value) for name, value in record.items()})
        except (ValueError, KeyError, TypeError):
            if line and number < len(lines):  # only a line that ends in a newline was written whole
                raise MetricsError(f"{path} line {number} is damaged: {line[:60]!r}; delete that line") from None
    return records


def _open_jsonl(path: str, first_step: int) -> TextIO:
    """Open `path` for appending after dropping what an uninterrupted run would not have written yet."""
    before = read_metrics(path) if first_step and os.path.exists(path) else []
    kept = [record for record in before if record["step"] < first_step]
    with disk.replaced(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(json_safe(record), allow_nan=False) + "\n" for record in kept)
    return open(path, "a", encoding="utf-8")


def _plain_name(name: str) -> str:
    """Return `name` in the letters TensorBoard takes: `train/frame->clip/up` is `train/frame_to_clip/up`."""
    return re.sub(r"[^-/\w.]", "_", name.replace("->", "_to_"))


def _start_wandb(folder: str, project: str, config: Mapping[str, Any] | None, *, resumed: bool) -> Any:
    """Return a W&B run, the one of this folder if `resumed`."""
    try:
        import wandb  # 1 s, and an extra
    except Exception as error:  # it may be there and broken, in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
            raise MetricsError("logging.wandb = True needs wandb: pip install -r requirements-extras.txt") from None
        why = f"wandb is installed, but its import fails ({' '.join([type(error).__name__, *str(error).split()])})"
        raise MetricsError(f"{why}; mend it by pip install -r requirements-extras.txt") from error
    id_file, run_id = os.path.join(folder, "wandb.json"), None
    if resumed and os.path.exists(id_file):
        with open(id_file, encoding="utf-8") as file, contextlib.suppress(ValueError, KeyError, TypeError):
            run_id = json.load(file)["id"]  # of a damaged file none: W&B begins another run
    try:
        run = wandb.init(project=project, dir=folder, id=run_id, resume="allow", config=json_safe(dict(config or {})))
    except Exception as error:  # its own classes differ between versions
        why = f"W&B did not start ({type(error).__name__}: {error})"
        raise MetricsError(f"{why}; set WANDB_MODE=offline, use `wandb login`, or logging.wandb = False") from error
    write_json(id_file, {"id": run.id})
    # W&B drops points whose own step goes back, as after a resume; against global_step they stay.
    run.define_metric("*", step_metric="global_step")
    return run
