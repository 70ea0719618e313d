"""The report says in plain words what the numbers mean, and draws what there is."""

import math
import re
import subprocess
import sys

import pytest

from hvt_jax.run import figures, report

SCORES = {
    "evaluated_step": 50,
    "top1": 45.1,
    "top5": 90.0,
    "chance": 12.5,
    "standard_error": 2.5,
    "untrained_top1": 38.0,
    "untrained_standard_error": 2.5,  # of the difference it is 3.54
}


def run_metrics(steps=6):
    records = []
    for step in range(steps):
        records.append(
            {
                "step": 10 * step,
                "epoch": step / 2,
                "train/frame->clip/up": 1.0 / (1 + step),
                "train/clip->frame/down": math.nan if step == 2 else 1.0,
                "monitor/frame/rank": 10.0,
                "monitor/frame/rank_share": 0.2,
                "monitor/frame/std": 0.5,
                "monitor/frame/cosine": -0.1,
                "monitor/frame->clip/up/mean_ratio": 0.9,
                "gradient_norm/frame": 0.0 if step == 0 else 1.0,
                "gradient_norm/frame/predictors": math.inf if step == 1 else 2.0,
                "update_norm/frame": 0.01,
            }
        )
    # The short name is that of another set at step 0, as after a change of data.label.
    records.append({"step": 0, "knn/frame/motion/top1": 38.0, "knn/frame/digit/top1": 30.0, "knn/frame/top1": 30.0})
    records.append({"step": 50, "knn/frame/motion/top1": 45.1, "knn/frame/digit/top1": 31.0, "knn/frame/top1": 45.1})
    return records


def run_results(**changes):
    results = {
        "knn": {
            "clip": {"motion": dict(SCORES, top1=99.0)},
            "frame": {"motion": SCORES, "digit": dict(SCORES, top1=42.9)},
        },
        "mlp": {
            "clip": {"motion": dict(SCORES, top1=30.0, within_pairs=52.0, untrained_within_pairs=50.0)},
            "frame": {"motion": SCORES},
        },
        "edges": {"frame->clip/up": {"loss": 0.5, "mean_ratio": 0.9, "copy_ratio": None}},
        "outcome": "done",
        "steps": 50,
        "seconds": 3723.4,
        "clips_per_second": 61.27,
        "parameter_digest": "9f3a",
        "bad_videos": [],
        "skipped_updates": {"frame": 0},
    }
    return results | changes


def test_report_of_a_run(tmp_path):
    path = report.write_report(tmp_path, run_metrics(), run_results(), ["frame: the level is dead"])
    text = path.read_text()
    assert path == tmp_path / "report.md"
    assert text.startswith("# Report\n\n**Done.** 50 steps in 1 h 2 min at 61.3 clips/s. Parameters: `9f3a`.\n")
    assert "| level | label | kNN | MLP | pairs, MLP | chance | noise | verdict |" in text
    assert "| frame | motion | 45.1 (38.0) | 45.1 (38.0) | - | 12.5 | 7.1 | **better** |" in text
    assert "| frame | digit | 42.9 (38.0) | - | - | 12.5 | 7.1 | no better than untrained |" in text
    assert "| clip | motion | 99.0 (38.0) | 30.0 (38.0) | 52.0 (50.0) | 12.5 | 7.1 | worse than untrained, " in text
    assert "videos at step 50, read" in text and "2 standard errors of the difference" in text
    assert "one draw of one seed" in text and "*Pairs*" in text
    assert "| frame->clip/up | 0.50 | 0.90 | - |" in text
    assert text.index("| frame | motion") < text.index("| clip | motion")  # lowest level first
    assert "## Alarms\n\n- frame: the level is dead\n" in text
    assert "All videos could be read." in text and "No update was skipped." in text
    assert text.index("| level |") < text.index("![accuracy]")
    pictures = re.findall(r"\]\((figures/\w+\.png)\)", text)
    assert [picture.split("/")[1] for picture in pictures] == [
        "accuracy.png",
        "pairs.png",
        "losses.png",
        "monitors.png",
        "gradients.png",
    ]
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_bad_videos_and_skipped_updates_are_named_and_counted(tmp_path):
    results = run_results(bad_videos=[f"v{i}.avi" for i in range(23)], skipped_updates={"frame": 0, "clip": 3})
    text = report.write_report(tmp_path, [], results, []).read_text()
    assert "23 videos could not be read" in text and "`v19.avi` and 3 more." in text and "`v20.avi`" not in text
    assert "Updates skipped because of NaN or Inf: clip 3." in text
    one = report.write_report(tmp_path, [], run_results(bad_videos=["v7.avi"]), []).read_text()
    assert "- 1 video could not be read and did not count: `v7.avi`." in one


def test_report_of_a_run_that_ended_before_anything_was_measured(tmp_path):
    text = report.write_report(tmp_path, [], {}, []).read_text()
    assert "No level was evaluated" in text and "There was nothing to draw yet." in text and "None." in text


@pytest.mark.parametrize("outcome", ["running", "preempted", "stopped", "diverged"])
def test_the_outcome_comes_first(tmp_path, outcome):
    text = report.write_report(tmp_path, [], {"outcome": outcome, "steps": 7}, []).read_text()
    first = text.splitlines()[2]
    assert first.startswith(f"**{outcome.capitalize()}") and " at step 7" in first.split(".")[0]


def test_a_run_whose_every_update_was_bad_is_drawn_without_a_warning(tmp_path):
    """Warnings are errors here: a logarithmic scale has no place for zeros alone."""
    names = ("update_norm/frame", "gradient_norm/frame", "monitor/frame/std")
    metrics = [{"step": step} | dict.fromkeys(names, value) for step, value in ((1, 0.0), (2, 0.0), (3, math.inf))]
    text = report.write_report(tmp_path, metrics, {"outcome": "diverged", "steps": 3}, []).read_text()
    assert "gradients.png" in text and "monitors.png" in text


def test_a_new_report_replaces_the_old_one(tmp_path):
    report.write_report(tmp_path, run_metrics(), run_results(), ["old alarm"])
    assert "old alarm" not in report.write_report(tmp_path, run_metrics(), run_results(), []).read_text()


def curves(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_tables_keep_their_columns_beside_a_ceiling(tmp_path):
    results = run_results()
    results["knn"]["frame"]["motion"] = dict(results["knn"]["frame"]["motion"], supervised_top1=99.0)
    text = report.write_report(tmp_path, run_metrics(), results, []).read_text()
    assert "(38.0 / 99.0)" in text and "the untrained network / supervised training" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_accuracies_show_trained_untrained_chance_and_supervised():
    evaluated = {"knn": {"frame": {"motion": SCORES, "digit": SCORES}}, "mlp": {"frame": {"motion": SCORES}}}
    evaluated["knn"]["frame"]["motion"] = dict(SCORES, supervised_top1=99.0)
    axes = figures._accuracies(run_metrics(), evaluated, "top1", "").axes
    assert [axis.get_title() for axis in axes] == ["frame: motion", "frame: digit"]
    motion, digit = (curves(axis) for axis in axes)
    assert list(motion["kNN"].get_xdata()) == [0, 50] and list(motion["kNN"].get_ydata()) == [38.0, 45.1]
    assert list(digit["kNN"].get_ydata()) == [30.0, 31.0] and {"untrained", "supervised"} <= motion.keys()
    levels = [line.get_ydata()[0] for line in axes[0].get_lines() if len(line.get_ydata())]
    assert {38.0, 99.0, 12.5} <= set(levels)
    assert figures._accuracies(run_metrics(), evaluated, "within_pairs", "") is None


def test_losses_have_a_panel_per_source_level_and_a_curve_per_edge():
    axes = figures._losses(run_metrics()).axes
    assert [axis.get_title() for axis in axes] == ["frame", "clip"]
    assert list(curves(axes[0])["up: clip"].get_ydata()) == [1 / (1 + step) for step in range(6)]
    assert "down: frame" in curves(axes[1])


def test_long_curves_are_smoothed_and_keep_their_raw_values():
    metrics = [{"step": i, "train/frame->clip/up": float(i % 2)} for i in range(200)]
    raw, smooth = figures._losses(metrics).axes[0].get_lines()
    assert list(raw.get_ydata()[:3]) == [0, 1, 0]
    assert smooth.get_label() == "up: clip" and 0.3 < min(smooth.get_ydata()[10:]) <= max(smooth.get_ydata()[10:]) < 0.7


def test_running_mean_leaves_out_what_is_not_finite():
    assert figures._running_mean([1.0, math.nan, 3.0, math.inf, 5.0], 2) == [1.0, 1.0, 3.0, 3.0, 5.0]
    assert math.isnan(figures._running_mean([math.nan], 2)[0])


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, hvt_jax.run.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
