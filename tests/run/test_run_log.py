"""When numbers are fetched and written, on a device that notes who asks for what, and what is said of them."""

import io
import json
import types

import jax
import pytest
import rich.console

from hvt_jax.engine.step_metrics import LONGEST_BAD_ROW
from hvt_jax.evaluation import evaluate
from hvt_jax.run import metrics, run_log
from hvt_jax.run.run_folder import RunFolder
from tests import small

LIMIT, NUM_STEPS = 10, 1000


class Device:
    """Gives out the number of every step and remembers which were fetched."""

    def __init__(self):
        self.fetched = []

    def scalars(self, step: int, longest: int) -> dict:
        def fetch(_):
            self.fetched.append(step)
            return longest

        kind = type("Scalar", (), {"__int__": fetch, "copy_to_host_async": lambda _: None})
        return {LONGEST_BAD_ROW: kind()}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A log that writes nothing but remembers what it would, a device, and the list of steps written."""

    def make(interval: int):
        fields = {"logging.interval_steps": interval, "optimizer.max_bad_updates": LIMIT}
        folder, writer = types.SimpleNamespace(path=str(tmp_path)), types.SimpleNamespace(note=None, busy=None)
        length = {"steps_per_epoch": 100, "num_steps": NUM_STEPS}
        log, written = run_log.RunLog(small.small_settings(**fields), folder, writer, bad_videos=None, **length), []
        monkeypatch.setattr(log, "_write", lambda step, scalars: written.append(step))
        return log, Device(), written

    return make


def _ends_at(log, device, bad_steps) -> int | None:
    """Run to the end or a divergence; a label is bad in `bad_steps`."""
    row = longest = 0
    for step in range(1, NUM_STEPS + 1):
        row = row + 1 if step in bad_steps else 0
        longest = max(longest, row)
        if log.keep(step, device.scalars(step, longest)):
            return step
        # Not later than that, for then it would wait for the device.
        assert device.fetched[-1:] == [step - run_log.LAG_STEPS] * (step > run_log.LAG_STEPS)
    return None


@pytest.mark.parametrize("interval", [1, 7, 10, 5000])
@pytest.mark.parametrize("length", [10, 18, NUM_STEPS])
def test_a_row_of_bad_updates_is_seen_at_the_same_step_whatever_is_logged(world, interval, length):
    # A row of 18 from step 11 on is over when step 30 is logged and had 9 bad updates when step 20 was.
    log, device, written = world(interval)
    assert _ends_at(log, device, range(11, 11 + length)) == 20 + run_log.LAG_STEPS
    assert written == [step for step in range(1, 21) if step == 1 or step % interval == 0]


def test_rows_below_the_limit_do_not_add_up(world):
    log, device, written = world(100)
    assert _ends_at(log, device, [step for step in range(1, NUM_STEPS) if step % LIMIT]) is None
    assert not log.catch_up()
    assert written == [1, *range(100, NUM_STEPS + 1, 100)]


def test_before_a_checkpoint_every_step_is_settled(world):
    log, device, written = world(1)
    for step in (1, 2, 3):
        assert not log.keep(step, device.scalars(step, 7 + step if step < 3 else 8))
    assert (device.fetched, written) == ([1], [1])
    assert not log.catch_up() and not log.catch_up()
    assert (device.fetched, written) == ([1, 2, 3], [1, 2, 3])
    assert not log.keep(4, device.scalars(4, LIMIT))
    assert log.catch_up()


@pytest.fixture
def writing(tmp_path):
    """A log that writes into a run folder, its writer, and a function that returns what was printed since."""
    screen = rich.console.Console(file=io.StringIO(), force_terminal=False, width=300, highlight=False)
    settings, length = small.small_settings(**{"logging.tensorboard": False}), {"steps_per_epoch": 4, "num_steps": 12}

    def printed() -> list[str]:
        lines = screen.file.getvalue().splitlines()
        screen.file.truncate(screen.file.seek(0))
        return lines

    with (
        RunFolder(tmp_path, warn=pytest.fail) as folder,
        metrics.MetricWriter(tmp_path, settings.logging, console=screen) as writer,
    ):
        bad_videos = types.SimpleNamespace(lines=[])
        yield run_log.RunLog(settings, folder, writer, bad_videos=bad_videos, **length), writer, printed


def _evaluation(top1: float) -> evaluate.Evaluation:
    levels = {"clip": {"motion": {"top1": top1, "chance": 12.5, "standard_error": 3.0}}}
    return evaluate.Evaluation({"linear": levels, "mlp": levels}, 1.5, 0.5)


def _train(writer, steps, std: float):
    for step in steps:
        writer.write(step, {"train/total": 1.0, "monitor/clip/rank": 5.0, "monitor/clip/std": std})


def test_every_evaluation_renews_the_report_and_prints_new_alarms_alone(writing, tmp_path):
    log, writer, printed = writing

    def evaluate_at(step: int, top1: float) -> tuple[list[str], dict, str]:
        log.write_evaluation(step, _evaluation(top1))
        log.report(step, "running")
        results = json.loads((tmp_path / "results.json").read_text())
        return printed(), results, (tmp_path / "report.md").read_text()

    lines, results, report = evaluate_at(0, 20.0)
    assert lines == [
        "step 0: top-1 (untrained), evaluated in 2.0 s: features 1.5 s, neighbours and probes 0.5 s",
        "clip: motion linear 20.0 (20.0), MLP 20.0 (20.0) %; chance 12.5: not trained yet",
    ]
    assert (results["outcome"], results["steps"]) == ("running", 0) and "parameter_digest" not in results
    assert "not trained yet" in report and "There was nothing to draw yet." in report
    _train(writer, range(1, 5), 0.002)
    lines, results, report = evaluate_at(4, 30.0)
    assert len(lines) == 3 and lines[1].endswith("MLP 30.0 (20.0) %; chance 12.5: better")
    assert lines[2].startswith("alarm     clip: the standard deviation before the norm is 0.002")
    assert results["linear"]["clip"]["motion"]["untrained_top1"] == 20.0 and "**better**" in report
    _train(writer, range(5, 9), 0.001)
    lines, results, report = evaluate_at(8, 21.0)
    assert len(lines) == 2 and lines[1].endswith("MLP 21.0 (20.0) %; chance 12.5: no better than untrained")
    assert "- clip: the standard deviation before the norm is 0.001" in report
    assert "no better than untrained" in report and "figures/accuracy.png" in report


def test_a_run_that_ends_early_reports_what_was_evaluated(writing, tmp_path):
    log, writer, printed = writing
    log.write_evaluation(0, _evaluation(20.0))
    _train(writer, range(1, 4), 0.5)
    log.report(3, "preempted")
    assert printed()[2:] == [
        "clip: motion linear 20.0 (20.0), MLP 20.0 (20.0) %; chance 12.5: not trained yet",
        f"results   {tmp_path}/results.json and report.md",
    ]
    assert (tmp_path / "report.md").read_text().startswith("# Report\n\n**Preempted at step 3**")
    assert json.loads((tmp_path / "results.json").read_text())["mlp"]["clip"]["motion"]["top1"] == 20.0


def test_only_the_first_process_reports(writing, tmp_path, monkeypatch):
    log, writer, printed = writing
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log.report(3, "preempted")
    assert printed() == [] and not (tmp_path / "report.md").exists() and not (tmp_path / "results.json").exists()
