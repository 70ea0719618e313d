"""Run many trainings as processes, a few at a time; a signal reaches them all, and none outlives this process.

They are in sessions of their own, so that Ctrl-C comes to this process alone, which passes it on as SIGUSR1: a
training saves and ends at it, even where it was sent SIGTERM as well, of which a second one would end it at once. If
this process is killed the system tells them (`attached`).
"""

import collections
import contextlib
import dataclasses
import datetime
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from hvt_jax.tools.sweep_places import Place

_POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_WORDS = {
    2: "its config, data or folder cannot be used",
    3: "diverged",
    4: "collapsed",
    143: "preempted and saved",
}
_LAST_WORDS = 300  # letters of a log


@dataclasses.dataclass(frozen=True)
class Job:
    """A Python program to run: its name, `python`'s arguments, and the file that gets what it prints."""

    name: str
    arguments: Sequence[str]
    log: pathlib.Path


@dataclasses.dataclass
class _Child:
    job: Job
    process: subprocess.Popen
    place: Place
    started: float


def run_jobs(jobs: Sequence[Job], places: Sequence[Place], say: Callable[[str], object]) -> tuple[dict[str, int], int]:
    """Run all jobs, one in every place at a time; return {name: exit code} of those that began, and a signal or 0.

    After SIGINT, SIGTERM, SIGHUP or SIGUSR1 no further job begins and those that run are told to save and end; after
    the same signal once more they are killed.

    Args:
      jobs: in the order in which they begin.
      places: what each may use.
      say: called with a line when one begins or ends.
    """
    waiting, free = collections.deque(enumerate(jobs, start=1)), list(places)
    children: list[_Child] = []
    codes: dict[str, int] = {}
    told, began = 0, time.monotonic()
    with _noted_signals() as noted:
        try:
            while children or (waiting and not noted):
                while waiting and free and not noted:
                    number, job = waiting.popleft()
                    say(f"[{number}/{len(jobs)}] {job.name}: begins, see {job.log}")
                    children.append(_start(job, free.pop(0)))
                time.sleep(_POLL_SECONDS)
                if len(noted) > told:
                    _pass_on(children, noted[told:], noted[:told], say)
                    told = len(noted)
                for child in [child for child in children if child.process.poll() is not None]:
                    children.remove(child)
                    free.append(child.place)
                    codes[child.job.name] = child.process.returncode
                    left = (len(jobs) - len(codes)) * (time.monotonic() - began) / len(codes)
                    is_last = noted or not (waiting or children)
                    say(_describe_end(child, "" if is_last else f"; about {_duration(left)} left"))
        finally:
            for child in children:  # none, but after an error of this process
                _kill(child)
    return codes, noted[0] if noted else 0


def _start(job: Job, place: Place) -> _Child:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    attached = ["-m", "hvt_jax.tools.attached", str(os.getpid()), ",".join(map(str, place.cores)) or "-"]
    with open(job.log, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *attached, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **place.variables},
            start_new_session=True,
        )
    return _Child(job, process, place, time.monotonic())


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Give the list of signals that came, which end nothing meanwhile."""
    noted: list[int] = []
    # Under nohup the end of the terminal is ignored, and stays so.
    heeded = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in heeded}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _pass_on(children: Sequence[_Child], new: Sequence[int], old: Sequence[int], say: Callable[[str], object]) -> None:
    """Tell all to stop, after the first signals, or kill them, after one that came before."""
    if not old:
        for child in children:
            child.process.send_signal(signal.SIGUSR1)
        say(f"stopping: {len(children)} run(s) save and end; once more ends them at once")
    elif set(new) & set(old):
        for child in children:
            _kill(child)
        say(f"{len(children)} run(s) killed; they go on from their last checkpoints")


def _kill(child: _Child) -> None:
    """End a process at once, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _describe_end(child: _Child, left: str) -> str:
    """Return how a run ended, why if it did not come to its end, and how long the others will take."""
    job, code = child.job, child.process.returncode
    if not code:
        return f"{job.name}: done in {_duration(time.monotonic() - child.started)}{left}"
    why = describe_code(code)
    last = "" if code == 143 else _last_line(job.log)
    return f"{job.name}: {why}, exit code {code}; see {job.log}{last and f': {last}'}{left}"


def describe_code(code: int) -> str:
    """Return in words why a training ended with an exit code that is not 0; negative ones are of signals."""
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return _WORDS.get(code, "failed")


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[-_LAST_WORDS:] for line in reversed(lines) if line.strip()), "")


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
