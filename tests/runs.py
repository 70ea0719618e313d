"""Runs of the real command on a tiny data set: `python -m hvt_jax.main` in processes of its own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from hvt_jax.data import digits_files
from tests import small

ROOT = pathlib.Path(__file__).parent.parent
# Dropout on, so that a resumed run that repeated or skipped a draw would show it; 8 steps of 4 videos.
FIELDS = {
    **small.SMALL_SIZES,
    "data.height": 32,
    "data.width": 32,
    "model.hierarchy": "frame-clip",
    "model.stem.patch_size": 16,
    "model.frame.dropout": 0.1,
    "train.num_epochs": 2.0,
    "evaluation.batch_size": 8,
    "checkpoint.interval_steps": 3,
    "logging.interval_steps": 1,
    "logging.tensorboard": False,
}
TIMES = ("time/", "speed/")  # what differs between two runs of the same numbers


def make_data(root: pathlib.Path, num_videos: int = 24) -> pathlib.Path:
    """Write the digits data set: 2/3 of so few videos are for training."""
    digits_files.make_digits(root, digits_files.DigitsSpec(num_videos, 32, "mpeg4", 0))
    return root


def environment(cache: pathlib.Path | None = None, devices: int = 1) -> dict[str, str]:
    """Return the variables of a run on `devices` simulated devices; `cache` spares it the compilation."""
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    if cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return variables


def command(workdir, fields: dict, *options: str) -> list[str]:
    """Return the command line that trains in `workdir`."""
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    arguments = ["--config=configs/digits.py", f"--workdir={workdir}", *overrides, *options]
    return [sys.executable, "-m", "hvt_jax.main", *arguments]


class Run:
    """A process that trains, its output and what it has written so far."""

    def __init__(self, workdir: pathlib.Path, arguments: list[str], variables: dict[str, str]):
        self.workdir = workdir
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
        self.stdout = self.stderr = ""

    def wait(self, timeout: float = 240) -> "Run":
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {timeout} s; its last words: {self.stdout[-2000:]}") from None
        return self

    def kill(self) -> "Run":
        """SIGKILL it and all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.stdout, self.stderr = self.process.communicate()
        return self

    @property
    def code(self) -> int | None:
        return self.process.returncode

    def wait_for_step(self, step: int, timeout: float = 240) -> bool:
        """Wait until metrics.jsonl has `step`; return False if the process ended before."""
        while time.monotonic() - self.started < timeout:
            if last_step(self.workdir) >= step:
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        raise AssertionError(f"step {step} not reached in {timeout} s")

    @property
    def resumed_at(self) -> int:
        """Step that this run says it resumed at; 0 if it began at the beginning, -1 if it never came so far."""
        found = re.search(r"^run .*?(?:resumed at step (\d+))?$", self.stdout, re.MULTILINE)
        return int(found[1] or 0) if found else -1

    @property
    def preempted_at(self) -> int:
        """Step that this run says it saved when it was told to stop."""
        return int(re.search(r"^preempted at step (\d+)", self.stdout, re.MULTILINE)[1])


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
