"""Runs on a tiny data set: `python -m hvt_jax.main` in processes of its own, or the same training in this one.

A process is started where it is the point: to be killed, stopped or told to end. Both have the devices of the tests,
so their numbers are the same, and share the compilation cache (`conftest`).
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

from configs import digits
from hvt_jax import disk
from hvt_jax.commands import cli
from hvt_jax.engine import compilation
from hvt_jax.run import describe, figures, loop
from hvt_jax.tools import digits_files
from tests import small

ROOT = pathlib.Path(__file__).parent.parent
# Dropout on, so that a resumed run that repeated or skipped a draw would show it; 8 steps of 4 videos.
FIELDS = {
    **small.SMALL_SIZES,
    "data.height": 32,
    "data.width": 32,
    "model.hierarchy": "frame-clip",
    "model.num_clips": 1,
    "model.stem.patch_size": 16,
    "model.frame.dropout": 0.1,
    "train.num_epochs": 2.0,
    "evaluation.schedule": "exponential",
    "evaluation.interval": 2.0,
    "evaluation.batch_size": 8,
    "checkpoint.interval_steps": 3,
    "logging.interval_steps": 1,
    "logging.tensorboard": False,
    "evaluation.probe_steps": 20,
}
TIMES = ("time/", "speed/")  # what differs between two runs of the same numbers


def make_data(root: pathlib.Path, num_videos: int = 24) -> pathlib.Path:
    """Write the digits data set: 2/3 of so few videos are for training."""
    digits_files.make_digits(root, digits_files.DigitsSpec(num_videos, 32, "mpeg4", 0))
    return root


def environment(devices: int = 4) -> dict[str, str]:
    """Return the variables of a run on `devices` simulated devices."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}


def command(workdir, fields: dict, *options: str) -> list[str]:
    """Return the command line that trains in `workdir`."""
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    arguments = ["--config=configs/digits.py", f"--workdir={workdir}", *overrides, *options]
    return [sys.executable, "-m", "hvt_jax.main", *arguments]


_COMPILED: dict = {}


def _compile_once(definition, optimizer, *, num_steps: int):
    """Return the compiled functions of a run, those of an earlier one where nothing that they depend on differs."""
    settings = definition.settings
    data = dataclasses.replace(settings.data, root="", storage_root="", manifest="", max_bad_fraction=0.0)
    model = dataclasses.replace(settings.model, initial_weights="")
    same = {"data": data, "model": model, "checkpoint": None, "alarms": None, "train": settings.train.fsdp}
    key = (dataclasses.replace(settings, **same), definition.num_classes, optimizer.update.__self__, num_steps)
    if key not in _COMPILED:
        _COMPILED[key] = compilation.compile_functions(definition, optimizer, num_steps=num_steps)
    return _COMPILED[key]


class Ended:
    """A run that came to an end: its exit code and what it said."""

    def __init__(self, workdir: pathlib.Path, code: int | None, stdout: str, stderr: str):
        self.workdir, self.code, self.stdout, self.stderr = workdir, code, stdout, stderr

    @property
    def resumed_at(self) -> int:
        """Step that this run says it resumed at; 0 if it began at the beginning, -1 if it never came so far."""
        found = re.search(r"^run .*?(?:resumed at step (\d+))?$", self.stdout, re.MULTILINE)
        return int(found[1] or 0) if found else -1

    @property
    def preempted_at(self) -> int:
        """Step that this run says it saved when it was told to stop."""
        return int(re.search(r"^preempted at step (\d+)", self.stdout, re.MULTILINE)[1])


@contextlib.contextmanager
def in_this_process(quick: bool):
    """Share compiled functions among the runs of the body; with `quick` as in `train_here`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(loop, "compile_functions", _compile_once))
        if quick:
            stack.enter_context(mock.patch.object(figures, "draw_all", lambda *_: {}))
            stack.enter_context(mock.patch.object(describe, "count_flops", lambda *_: (1e6, 3e6)))
        yield


def train_here(workdir: pathlib.Path, fields: dict, *, quick: bool = True) -> Ended:
    """Train in this process as `configs/digits.py` with `fields` says; as the command, from the settings on.

    With `quick` without pictures and counts of FLOPs, which cost more than the training and are the same in every run.
    """
    config = digits.get_config().copy_and_resolve_references()
    out, error = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(in_this_process(quick))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(error))
        config.update_from_flattened_dict(
            {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in fields.items()}
        )
        code = cli.run(lambda: loop.train(config.lock(), str(workdir)), output=str(workdir))
    return Ended(workdir, code, out.getvalue(), error.getvalue())


def finished_run(tmp_path_factory, folder: pathlib.Path) -> pathlib.Path:
    """Return `folder/run`, a copy of a finished run of FIELDS that is made once for all tests and all their workers."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with disk.locked(shared, RuntimeError, wait=True):
        if not (shared / "run" / "results.json").exists():
            ended = train_here(shared / "run", FIELDS | {"data.root": make_data(shared / "digits")})
            assert ended.code == 0, ended.stderr
    return pathlib.Path(shutil.copytree(shared / "run", folder / "run"))


class Run(Ended):
    """A process that trains, its output and what it has written so far."""

    def __init__(self, workdir: pathlib.Path, arguments: list[str], variables: dict[str, str]):
        super().__init__(workdir, None, "", "")
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started = time.monotonic()

    def wait(self, timeout: float = 240) -> "Run":
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {timeout} s; its last words: {self.stdout[-2000:]}") from None
        self.code = self.process.returncode
        return self

    def kill(self) -> "Run":
        """SIGKILL it and all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.stdout, self.stderr = self.process.communicate()
        self.code = self.process.returncode
        return self

    def wait_for_step(self, step: int, timeout: float = 240) -> bool:
        """Wait until metrics.jsonl has `step`; return False if the process ended before."""
        while time.monotonic() - self.started < timeout:
            if last_step(self.workdir) >= step:
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        raise AssertionError(f"step {step} not reached in {timeout} s")


def last_step(workdir: pathlib.Path) -> int:
    """Return the last step with losses in metrics.jsonl, -1 if there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    except OSError:
        return -1
    return max((json.loads(line)["step"] for line in lines if "train/total" in line), default=-1)


def numbers(workdir: pathlib.Path) -> list[dict]:
    """Return the records of metrics.jsonl without what is a time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if not name.startswith(TIMES)} for line in lines]


def results(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "results.json").read_text())
