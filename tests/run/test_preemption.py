"""SIGTERM and SIGUSR1 ask once and politely; a second SIGTERM ends the process."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import pytest

from hvt_jax.run import preemption as preemption_lib
from hvt_jax.run.preemption import EXIT_CODE, Preemption

ROOT = pathlib.Path(__file__).parents[2]
LOOP = """
import sys, time
import jax, jax.numpy as jnp
from hvt_jax.run.checkpoint import Checkpoints
from hvt_jax.run.preemption import EXIT_CODE, Preemption
from hvt_jax.settings import CheckpointSettings
settings = CheckpointSettings(interval_steps=9, keep_latest=1, keep_best=0, best_metric="")
advance = jax.jit(lambda x: x + 1)
with Preemption() as preemption, Checkpoints(sys.argv[1], settings, best_metric="", warn=print) as checkpoints:
    state = jnp.zeros(())
    for step in range(1, 6000):
        state = advance(state)
        time.sleep(0.01)
        if step == 3:
            print("running", flush=True)
        if preemption.requested() and sys.argv[2] == "polite":
            checkpoints.save(step, {"state": state})
            checkpoints.wait()
            print("saved", step, flush=True)
            sys.exit(EXIT_CODE)
"""


def start(folder, manner):
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(folder), manner],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
    )
    assert process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_exits_143(tmp_path, number):
    process = start(tmp_path, "polite")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == EXIT_CODE == 143
    step = int(output.split()[1])
    assert (tmp_path / f"manifest-{step}.json").exists() and (tmp_path / str(step)).is_dir()


def test_a_second_sigterm_ends_it_at_once(tmp_path):
    process = start(tmp_path, "deaf")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with Preemption() as preemption:
        assert not preemption.requested()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert preemption.requested() and preemption.requested()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_another_thread_installs_nothing():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with Preemption() as preemption:
            seen.append((preemption.requested(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_several_processes_agree_on_the_number_of_a_call(monkeypatch):
    """Within a step there may be many calls; the service wants numbers that go up and says yes at one of them only."""
    asked = []

    def reached(number):
        asked.append(number)
        return number == 3

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption_lib.multihost_utils, "reached_preemption_sync_point", reached)
    with Preemption() as preemption:
        assert [preemption.requested() for _ in range(5)] == [False, False, True, True, True]
    assert asked == [1, 2, 3]
