"""What a report says of the levels comes from the records, under full names."""

import json
import math

import pytest

from hvt_jax.evaluation import results, verdict
from hvt_jax.settings import SettingsError


def scores(**top1):
    """One level's scores, the label sets in the order given."""
    rest = {"top5": 50.0, "chance": 10.0, "standard_error": 1.0}
    return {"knn": {"clip": {name: {"top1": value, **rest} for name, value in top1.items()}}}


def record(step, **top1):
    return {"step": step, "epoch": 0.0, **results.flatten_scores(scores(**top1))}


def test_every_label_set_has_full_names_and_the_first_one_short_ones():
    flat = results.flatten_scores(scores(motion=30.0, digit=20.0))
    assert flat == {
        "knn/clip/motion/top1": 30.0,
        "knn/clip/motion/top5": 50.0,
        "knn/clip/motion/chance": 10.0,
        "knn/clip/motion/standard_error": 1.0,
        "knn/clip/digit/top1": 20.0,
        "knn/clip/digit/top5": 50.0,
        "knn/clip/digit/chance": 10.0,
        "knn/clip/digit/standard_error": 1.0,
        "knn/clip/top1": 30.0,
        "knn/clip/top5": 50.0,
    }


def test_another_first_label_set_is_compared_with_itself():
    """Digits got worse; by the short name they would be 25 % against the 12 % of the motions."""
    records = [record(0, motion=12.0, digit=40.0), record(8, digit=25.0, motion=12.0)]
    found = results.read_scores(records)["knn"]["clip"]
    assert list(found) == ["digit", "motion"]
    assert found["digit"] == {
        "evaluated_step": 8,
        "top1": 25.0,
        "top5": 50.0,
        "chance": 10.0,
        "standard_error": 1.0,
        "untrained_top1": 40.0,
        "untrained_standard_error": 1.0,
    }


def test_the_latest_evaluation_counts_whatever_came_after_it():
    records = [record(0, motion=12.0), record(4, motion=20.0), {"step": 6, "train/total": math.nan}]
    assert results.read_scores(records)["knn"]["clip"]["motion"]["evaluated_step"] == 4
    assert results.evaluated_steps(records) == [0, 4]
    untrained = results.read_scores(records[:1])["knn"]["clip"]["motion"]
    assert (untrained["evaluated_step"], untrained["top1"], untrained["untrained_top1"]) == (0, 12.0, 12.0)
    assert "untrained_top1" not in results.read_scores(records[1:])["knn"]["clip"]["motion"]
    assert results.read_scores([{"step": 1, "train/total": 1.0}]) == {}


def test_a_verdict_compares_with_the_untrained_network_on_the_same_videos_only():
    before, now = {results.FINGERPRINT: 1.0}, {results.FINGERPRINT: 2.0}
    records = [record(0, motion=12.0) | before, record(4, motion=20.0) | before, record(8, motion=60.0) | now]
    assert results.read_scores(records[:2])["knn"]["clip"]["motion"]["untrained_top1"] == 12.0
    found = results.read_scores(records)["knn"]["clip"]["motion"]
    assert "untrained_top1" not in found and verdict.gain(found) is None
    again = {"step": 6, **results.flatten_untrained(scores(motion=55.0)), **now}
    found = results.read_scores([*records[:2], again, records[2]])["knn"]["clip"]["motion"]
    assert (found["top1"], found["untrained_top1"], found["untrained_standard_error"]) == (60.0, 55.0, 1.0)
    assert results.evaluated_steps([*records, again]) == [0, 4, 8]
    # And back to the videos of the beginning.
    back = record(9, motion=30.0) | before
    assert (
        results.read_scores([*records[:2], again, records[2], back])["knn"]["clip"]["motion"]["untrained_top1"] == 12.0
    )


def test_error_of_a_difference_by_hand():
    assert results.difference_error({"standard_error": 3.0, "untrained_standard_error": 4.0}) == pytest.approx(5.0)
    assert math.isnan(results.difference_error({"standard_error": 3.0}))


def test_every_protocol_is_read_with_pairs_and_the_ceiling():
    found = {
        protocol: scores(motion=value)["knn"] for protocol, value in (("knn", 20.0), ("linear", 30.0), ("mlp", 40.0))
    }
    before = {protocol: scores(motion=10.0)["knn"] for protocol in found}
    for evaluated, within in ((found, 80.0), (before, 50.0)):
        evaluated["mlp"]["clip"]["motion"]["within_pairs"] = within
    records = [{"step": step, **results.flatten_scores(evaluated)} for step, evaluated in ((0, before), (8, found))]
    assert records[1]["mlp/clip/top1"] == 40.0 and "mlp/clip/top5" not in records[1]
    ceiling = {"linear": {"clip": {"motion": {"top1": 99.0}}}, "mlp": {"frame": {"motion": {"top1": 98.0}}}}
    read = results.read_scores(records, ceiling)
    mlp = read["mlp"]["clip"]["motion"]
    assert (mlp["within_pairs"], mlp["untrained_within_pairs"]) == (80.0, 50.0)
    # Of the same level, else of the best one that there is.
    tops = {protocol: levels["clip"]["motion"].get("supervised_top1") for protocol, levels in read.items()}
    assert tops == {"knn": None, "linear": 99.0, "mlp": 98.0}
    ((level, label_set, protocols),) = results.by_level({"steps": 8, **read})
    assert (level, label_set, list(protocols)) == ("clip", "motion", ["knn", "linear", "mlp"])


def test_a_ceiling_is_the_results_of_another_run(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"steps": 8, **scores(motion=99.0)}))
    assert results.read_ceiling("") == {}
    assert results.read_ceiling(str(path)) == scores(motion=99.0)
    path.write_text("[]")
    with pytest.raises(SettingsError, match="evaluation.supervised_ceiling = .* holds no accuracy of knn, linear, mlp"):
        results.read_ceiling(str(path))
    with pytest.raises(SettingsError, match="cannot be read .FileNotFoundError.; give a run's results.json"):
        results.read_ceiling(str(tmp_path / "none.json"))


def test_edges_are_the_mean_of_the_last_records_and_have_no_copy_ratio_between_widths():
    names = {"train/a->b/up": 2.0, "monitor/a->b/up/mean_ratio": 1.0}
    records = [{"step": step, **{name: value * step for name, value in names.items()}} for step in range(1, 6)]
    assert results.read_edges(records) == {"a->b/up": {"loss": 8.0, "mean_ratio": 4.0, "copy_ratio": None}}
    records.append({"step": 6, "monitor/a->b/up/copy_ratio": 0.5})
    assert results.read_edges(records)["a->b/up"]["copy_ratio"] == 0.5
    assert results.read_edges([]) == {}
