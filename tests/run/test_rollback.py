"""What follows from an alarm: a warning, an end with code 4, or an earlier step again at half the rates."""

import json
import shutil

import pytest

from hvt_jax.engine import alarms
from tests import kill_and_resume, runs

NUM_STEPS = 8
QUIET = {"evaluation.probe_steps": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.make_data(tmp_path_factory.mktemp("data") / "digits")


def _train(data, workdir, **fields) -> runs.Ended:
    return runs.train_here(workdir, {"data.root": data, **runs.FIELDS, **QUIET, **fields})


def test_a_dead_level_stops_the_run_which_goes_on_when_it_is_only_warned(data, tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "DEAD_STD", 1e9)
    run = _train(data, tmp_path / "run", **{"alarms.action": "stop"})
    assert (run.code, run.stderr) == (4, "")
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("collapsed: ")]
    assert line.startswith(
        "collapsed: stopped at step 3; earlier checkpoints are intact; lower optimizer.learning_rate"
    )
    assert "alarm     clip: the standard deviation before the norm" in run.stdout
    results, report = runs.results(tmp_path / "run"), (tmp_path / "run" / "report.md").read_text()
    assert (results["outcome"], results["steps"], results["rollbacks"]) == ("collapsed", 3, 0)
    assert report.startswith("# Report\n\n**Collapsed at step 3**") and "the level is dead" in report
    assert not list((tmp_path / "run" / "checkpoints").glob("manifest-*")), "what has collapsed is not saved"
    warned = _train(data, tmp_path / "warned", **{"alarms.action": "warn"})
    assert warned.code == 0 and "alarm     clip: the standard deviation before the norm" in warned.stdout
    assert (tmp_path / "warned" / "checkpoints" / "manifest-4.json").exists()


def test_a_level_that_dies_again_and_again_stops_the_run_in_the_end(data, tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "DEAD_STD", 1e9)
    run = _train(data, tmp_path / "run", **{"alarms.action": "rollback", "alarms.max_rollbacks": 1})
    assert run.code == 4, run.stderr
    lines = run.stdout.splitlines()
    assert "rollback  1 of 1: from step 3 back to step 0, which was healthy, with 0.5 of the learning rates" in lines
    assert any(line.startswith("collapsed: stopped at step 3, after 1 rollback(s); ") for line in lines)
    assert runs.results(tmp_path / "run")["rollbacks"] == 1


def _collapsed_until(rollbacks: int):
    """Return an `alarms.find` that sees a collapse at step 5, from step 6 on, until the run went back so often."""

    def find(history):
        steps = [record for record in history if "train/total" in record]
        if not steps or steps[-1]["step"] < 6 or steps[-1]["alarms/rollbacks"] >= rollbacks:
            return []
        return [alarms.Alarm("rank", ("clip",), 5, "clip: few directions are left")]

    return find


def test_a_run_goes_back_at_half_the_rates_and_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "find", _collapsed_until(1))
    fields = {"alarms.action": "rollback"}
    workdir = tmp_path / "run"
    run = _train(data, workdir, **fields)
    assert run.code == 0, run.stderr
    assert "rollback  1 of 3: from step 6 back to step 4, which was healthy, with 0.5 of the learning" in run.stdout
    records = [record for record in runs.numbers(workdir) if "train/total" in record]
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    assert [record["alarms/rollbacks"] for record in records] == [0] * 4 + [1] * 4
    whole = [record["learning_rate/clip"] for record in records]
    assert whole[5] < 0.6 * whole[3]
    sentence = "rollback 1: from step 6 back to step 4 (rank/clip since step 5), with half the learning rates"
    assert sentence in (workdir / "report.md").read_text() and runs.results(workdir)["rollbacks"] == 1
    # Resumed after the rollback, from what was saved at half the rates; and before it, so that it comes once more.
    for left, resumed_at in (((4, 6), 6), ((4,), 4)):
        copy = shutil.copytree(workdir, tmp_path / f"resumed at {resumed_at}")
        for path in (copy / "checkpoints").iterdir():
            if not any(path.name in (str(step), f"manifest-{step}.json") for step in left):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        resumed = _train(data, copy, **fields)
        assert (resumed.code, resumed.resumed_at) == (0, resumed_at), resumed.stderr
        assert kill_and_resume.differences(workdir, copy) == []


def test_a_rollback_is_told_from_its_record():
    found = [alarms.Alarm("collapse", ("frame->clip/up", "clip"), 21, "")]
    record = {"step": 21, **alarms.rollback_record(40, 2, found)}
    assert json.loads(json.dumps(record)) == record
    assert alarms.rollbacks([{"step": 3, "alarms/rollbacks": 0}, record]) == [
        "rollback 2: from step 40 back to step 20 (collapse/frame->clip/up/clip since step 21), with half the learning "
        "rates from there on"
    ]
