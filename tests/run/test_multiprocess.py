"""Two real processes on the CPU that train together, as on two hosts, against one process with two devices.

What two began one ends here, which reads their checkpoint and must come to the same numbers; two that go on: `long`.
"""

import json
import signal
import socket
import types
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from hvt_jax import main
from hvt_jax.engine import optim, sharding, steps
from hvt_jax.run import seals
from hvt_jax.run.checkpoint import Checkpoints, parameter_digest
from hvt_jax.settings import read_settings
from tests import runs

# 12 steps; BatchNorm and VICReg over the whole batch, and the largest parameters cut over the processes. SGD, because
# adaptive optimizers blow up the rounding noise by which the two differ.
FIELDS = {
    **runs.FIELDS,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e-2,
    "train.num_epochs": 3.0,
    "train.fsdp": True,
    "train.fsdp_min_size": 1024,
    "evaluation.schedule": "linear",
    "evaluation.interval": 3.0,
}


def _start_pair(world, name="two", **fields) -> list[runs.Run]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = ["--distributed", f"--coordinator={address}", "--num_processes=2"]
    arguments = runs.command(world / name, {"data.root": world / "digits", **FIELDS, **fields}, *options)
    variables = runs.environment(devices=1)
    return [runs.Run(world / name, [*arguments, f"--process_id={number}"], variables) for number in range(2)]


def _wait(pair: list[runs.Run]) -> list[int]:
    """Return the exit codes; a survivor of the other's failure is killed."""
    try:
        return [run.wait(120).code for run in pair]
    finally:
        for run in pair:
            run.kill()


def _train_here(world, name) -> runs.Ended:
    """Train in this process on two of its devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with mock.patch.object(sharding, "make_mesh", lambda _: mesh):
        return runs.train_here(world / name, {"data.root": world / "digits", **FIELDS})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `one`, a run of one process, and `two`, begun by two processes and ended by one."""
    folder = tmp_path_factory.mktemp("world")
    runs.make_data(folder / "digits")
    reference = _train_here(folder, "one")
    assert reference.code == 0, reference.stderr
    return folder


@pytest.fixture(scope="module")
def stopped(world):
    """The pair after SIGTERM to one of them, and the step they saved."""
    pair = _start_pair(world)
    assert pair[0].wait_for_step(2), pair[0].wait().stderr  # early: the steps take no time
    pair[1].process.send_signal(signal.SIGTERM)
    assert _wait(pair) == [143, 143], [run.stderr[-3000:] for run in pair]
    return pair, pair[0].preempted_at


@pytest.fixture(scope="module")
def ended(world, stopped):
    run = _train_here(world, "two")
    assert run.code == 0, run.stderr
    return run


@pytest.mark.long
def test_sigterm_to_one_stops_both_at_the_same_saved_step(world, stopped):
    pair, saved = stopped
    assert 2 <= saved < 12
    checkpoints = str(world / "two" / "checkpoints")
    assert saved in seals.steps_in(checkpoints) and seals.distrust(checkpoints, saved) is None


@pytest.mark.long
def test_one_goes_on_where_two_stopped_and_nothing_differs(world, stopped, ended):
    assert ended.resumed_at == stopped[1] and ended.stderr == ""  # what they saved in parts is whole
    _are_the_same(world, "two")


@pytest.mark.long
def test_data_parallel_processes_stop_and_go_on_with_parameters_that_are_cut(world):
    """What one way of training saves is what the other goes on with."""
    pair = _start_pair(world, "other", **{"train.fsdp": False})
    assert pair[0].wait_for_step(1), pair[0].wait().stderr
    pair[1].process.send_signal(signal.SIGTERM)
    assert _wait(pair) == [143, 143], [run.stderr[-3000:] for run in pair]
    assert "in 2 process(es), data parallel" in pair[0].stdout
    resumed = _start_pair(world, "other")
    assert _wait(resumed) == [0, 0], [run.stderr[-3000:] for run in resumed]
    assert resumed[0].resumed_at == pair[0].preempted_at
    assert "in 2 process(es), fsdp" in resumed[0].stdout
    _are_the_same(world, "other")
    _is_whole(world / "other")


def _is_whole(workdir):
    """What two processes saved in parts has the digest that they wrote down."""
    settings = read_settings(json.loads((workdir / "config.json").read_text()))
    definition, length = steps.define(settings), {"steps_per_epoch": 4, "num_steps": 12}
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, **length)
    wanted = jax.eval_shape(steps.build_initialise(definition, optimizer), jax.random.key(0))
    options = {"best_metric": "knn/clip/top1", "warn": pytest.fail, "read_only": True}
    with Checkpoints(workdir / "checkpoints", settings.checkpoint, **options) as saved:
        step, state, _ = saved.restore(wanted)
    assert step == 12 and parameter_digest(state) == runs.results(workdir)["state_digest"]


def _are_the_same(world, folder):
    one, two = runs.numbers(world / "one"), runs.numbers(world / folder)
    assert [record["step"] for record in one] == [record["step"] for record in two]
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            message = f"step {expected['step']}: {name}"
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-5, err_msg=message)
    assert runs.results(world / "one")["knn"] == runs.results(world / folder)["knn"]


@pytest.mark.long
def test_the_second_process_takes_part_and_is_silent(stopped):
    assert "in 2 process(es), fsdp" in stopped[0][0].stdout
    assert [line for line in stopped[0][1].stdout.splitlines() if not line.startswith("[Gloo]")] == []


def test_a_silent_process_is_given_up_after_a_minute(monkeypatch, capsys):
    """JAX itself ends the others then, so only what it is told is looked at."""
    told = {}

    def initialize(*_, **options):
        told.update(options)
        raise RuntimeError("nobody is there\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    given = {"DISTRIBUTED": True, "COORDINATOR": "host:1", "NUM_PROCESSES": 2, "PROCESS_ID": 0}
    for name, value in given.items() | {("HEARTBEAT", main.HEARTBEAT.default)}:
        monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
    assert main._train() == 2
    assert told == {"heartbeat_timeout_seconds": 60, "initialization_timeout": 300}
    assert capsys.readouterr().err.startswith("error: --distributed: nobody is there; give --coordinator")
