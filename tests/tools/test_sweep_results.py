"""The table of a sweep, its files and its picture, from results.json written by hand."""

import csv
import io
import json
import pathlib
import struct

import pytest

from hvt_jax import settings as settings_lib
from hvt_jax.settings import SettingsError, reader
from hvt_jax.tools import sweep_plan, sweep_report, sweep_results

SWEEP = {"grid": {"optimizer.learning_rate": (0.5, 0.25)}}


def _scores(frame, clip, digit=1.0):
    numbers = {"untrained_top1": 20.0, "chance": 12.5, "standard_error": 1.0}

    def sets(top1, within):
        motion = {"top1": top1, **numbers, "within_pairs": within, "untrained_within_pairs": 49.0}
        return {"motion": motion, "digit": {"top1": digit, **numbers}}

    return {"linear": {"frame": sets(frame, 50.0), "clip": sets(clip, 80.0)}, "knn": {"clip": sets(clip + 1, 70.0)}}


def _write(run, outcome="done", **scores):
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text(json.dumps({"outcome": outcome, **scores}))


@pytest.fixture
def sweep():
    return sweep_plan.read(SWEEP, reader.field_names(settings_lib.Settings))


@pytest.fixture
def runs(sweep, tmp_path):
    """Three seeds of the first setting and one of the second are done; one diverged, one has not begun."""
    runs = sweep.runs(tmp_path)
    for run, clip in zip(runs[::2], (8.0, 9.0, 13.0), strict=True):
        _write(run, **_scores(frame=clip + 20, clip=clip))
    _write(runs[1], **_scores(frame=40.0, clip=4.0))
    _write(runs[3], "diverged", **_scores(frame=99.0, clip=99.0))
    return runs


def _table(sweep, runs, metric=""):
    return sweep_results.tabulate(sweep, {run: sweep_results.outcome(run) for run in runs}, metric)


def test_means_and_intervals_per_level(sweep, runs):
    table = _table(sweep, runs)
    assert table.metric.name == "linear/clip/motion/top1" and table.levels == ("frame", "clip")
    cell = table.cells["learning_rate=0.5"]["clip"]
    assert cell.values == {0: 8.0, 1: 9.0, 2: 13.0} and cell.mean == 10.0
    assert cell.half_width == pytest.approx(6.568, abs=1e-3)  # 4.30 * sqrt(7 / 3)
    assert (cell.untrained_mean, cell.chance) == (20.0, 12.5)
    assert table.best("clip").name == "learning_rate=0.5" and table.best("frame").name == "learning_rate=0.25"
    assert table.missing == {"learning_rate=0.25/seed1": "diverged", "learning_rate=0.25/seed2": "not begun"}


@pytest.mark.parametrize(
    ("metric", "name", "value", "chance"),
    [
        ("knn/clip/top1", "knn/clip/motion/top1", 5.0, 12.5),
        ("linear/frame/digit/top1", "linear/frame/digit/top1", 1.0, 12.5),
        ("linear/clip/motion/within_pairs", "linear/clip/motion/within_pairs", 80.0, 50.0),
        ("linear/clip/motion/standard_error", "linear/clip/motion/standard_error", 1.0, None),
    ],
)
def test_another_metric(sweep, runs, metric, name, value, chance):
    table = _table(sweep, runs, metric)
    cell = table.cells["learning_rate=0.25"][table.metric.level]
    assert (table.metric.name, cell.mean, cell.chance) == (name, value, chance)


def test_the_csv_has_a_row_for_every_setting_and_level(sweep, runs):
    rows = list(csv.DictReader(io.StringIO(sweep_report.to_csv(_table(sweep, runs)))))
    assert [(row["setting"], row["level"], row["mean"], row["runs"]) for row in rows] == [
        ("learning_rate=0.5", "frame", "30", "3"),
        ("learning_rate=0.5", "clip", "10", "3"),
        ("learning_rate=0.25", "frame", "40", "1"),
        ("learning_rate=0.25", "clip", "4", "1"),
    ]
    assert rows[1] == {
        "setting": "learning_rate=0.5",
        "optimizer.learning_rate": "0.5",
        "level": "clip",
        "metric": "linear/clip/motion/top1",
        "runs": "3",
        "mean": "10",
        "half_width_95": "6.56836",
        "untrained_mean": "20",
        "chance": "12.5",
        "seed0": "8",
        "seed1": "9",
        "seed2": "13",
    }
    assert (rows[3]["half_width_95"], rows[3]["seed0"], rows[3]["seed1"]) == ("", "4", "")


def test_the_document_says_what_is_not_counted(sweep, runs):
    lines = sweep_report.to_markdown(_table(sweep, runs)).splitlines()
    assert "| setting | runs | frame | clip (compared) |" in lines
    assert "| learning_rate=0.5 | 3 of 3 | 30.0 ± 6.6 (20.0) | **10.0 ± 6.6** (20.0) |" in lines
    assert "| learning_rate=0.25 | 1 of 3 | **40.0** (20.0) | 4.0 (20.0) |" in lines
    assert lines[-4:-2] == ["- learning_rate=0.25/seed1: diverged", "- learning_rate=0.25/seed2: not begun"]
    assert "chance is 12.5" in lines[2]


def test_all_files_are_written_and_the_picture_shows_every_setting_and_level(sweep, runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *words, **kind: (drawn.append(self), save(self, *words, **kind))
    )
    paths = sweep_report.write(_table(sweep, runs), tmp_path)
    assert [path.name for path in paths] == ["sweep.csv", "sweep.md", "sweep.png"]
    content = (tmp_path / "sweep.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", content[16:24])) > 100
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["frame", "clip (compared)"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["learning_rate=0.5", "learning_rate=0.25"]
    means = [container.lines[0].get_xydata().tolist() for container in panels[1].containers]
    assert means == [[[10.0, 0.0]], [[4.0, 1.0]]]


def test_settings_with_other_levels_share_a_table(sweep, runs, tmp_path):
    path = runs[1].folder / "results.json"
    results = json.loads(path.read_text())
    del results["linear"]["clip"]
    path.write_text(json.dumps(results))
    table = _table(sweep, runs)
    assert "clip" not in table.cells["learning_rate=0.25"]
    assert "| learning_rate=0.25 | 1 of 3 | **40.0** (20.0) | - |" in sweep_report.to_markdown(table)
    assert sweep_report.draw(table)[:4] == b"\x89PNG"


def test_a_metric_that_no_run_has_is_named_with_those_there(sweep, runs):
    with pytest.raises(
        SettingsError, match="^--metric=mlp/clip/top1, but the runs have knn/clip/motion/top1, "
    ) as caught:
        _table(sweep, runs, "mlp/clip/top1")
    assert "linear/frame/digit/top1" in str(caught.value) and "\n" not in str(caught.value)
    for name in ("lienar/clip/top1", "linear/clips/top1", "linear/clip", "top1"):
        with pytest.raises(SettingsError, match=f"^--metric={name}, but must be PROTOCOL/LEVEL/LABELS/QUANTITY"):
            sweep_results.check_metric(name)
    for name in ("", "linear/clip/top1", "knn/patch/motion/top5"):
        sweep_results.check_metric(name)


def test_nothing_done_is_no_table(sweep, tmp_path):
    runs = sweep.runs(tmp_path)
    with pytest.raises(SettingsError, match="no run of the sweep is done yet: learning_rate=0.5/seed0 is not begun"):
        _table(sweep, runs)


def test_how_a_run_stands(sweep, tmp_path):
    run = sweep.runs(tmp_path)[0]
    assert sweep_results.outcome(run) == "not begun"
    run.folder.mkdir(parents=True)
    assert sweep_results.outcome(run) == "without results"
    results = run.folder / "results.json"
    for text in ("{", "[]", "{}", "3"):
        results.write_text(text)
        assert sweep_results.outcome(run) == "without results"
    for outcome in ("running", "preempted", "done"):
        results.write_text(json.dumps({"outcome": outcome}))
        assert sweep_results.outcome(run) == outcome


def test_a_run_that_was_to_be_evaluated_is_not_done_before(sweep, tmp_path):
    run = sweep.runs(tmp_path)[0]
    _write(run)
    assert sweep_results.outcome(run, ("linear", "attentive")) == "trained, not evaluated"
    path = pathlib.Path(run.folder, "evaluation", "results.json")
    path.parent.mkdir()
    path.write_text(json.dumps({"setups": {"x": {"protocols": {"linear": {}}}}}))
    assert sweep_results.outcome(run, ("linear", "attentive")) == "trained, not evaluated"
    path.write_text(json.dumps({"setups": {"x": {"protocols": {"linear": {}, "attentive": {}}}}}))
    assert sweep_results.outcome(run, ("linear", "attentive")) == "done"
