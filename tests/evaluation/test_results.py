"""What a report says of the levels comes from the records, under full names."""

import math

import pytest

from hvt_jax.evaluation import report, results


def scores(**top1):
    """One level's scores, the label sets in the order given."""
    rest = {"top5": 50.0, "chance": 10.0, "standard_error": 1.0}
    return {"clip": {name: {"top1": value, **rest} for name, value in top1.items()}}


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
    found = results.read_scores(records)["clip"]
    assert list(found) == ["digit", "motion"]
    assert found["digit"] == {
        "judged_step": 8,
        "top1": 25.0,
        "top5": 50.0,
        "chance": 10.0,
        "standard_error": 1.0,
        "untrained_top1": 40.0,
        "untrained_standard_error": 1.0,
    }
    assert report.verdict(found["digit"]) == "worse than untrained"
    assert report.verdict(found["motion"]) == "no better than untrained"


def test_the_latest_judgement_counts_whatever_came_after_it():
    records = [record(0, motion=12.0), record(4, motion=20.0), {"step": 6, "train/total": math.nan}]
    assert results.read_scores(records)["clip"]["motion"]["judged_step"] == 4
    assert results.judged_steps(records) == [0, 4]
    untrained = results.read_scores(records[:1])["clip"]["motion"]
    assert (untrained["judged_step"], untrained["top1"], untrained["untrained_top1"]) == (0, 12.0, 12.0)
    assert "untrained_top1" not in results.read_scores(records[1:])["clip"]["motion"]
    assert results.read_scores([{"step": 1, "train/total": 1.0}]) == {}


def test_a_verdict_compares_with_the_untrained_network_on_the_same_videos_only():
    before, now = {results.FINGERPRINT: 1.0}, {results.FINGERPRINT: 2.0}
    records = [record(0, motion=12.0) | before, record(4, motion=20.0) | before, record(8, motion=60.0) | now]
    assert results.read_scores(records[:2])["clip"]["motion"]["untrained_top1"] == 12.0
    found = results.read_scores(records)["clip"]["motion"]
    assert "untrained_top1" not in found and report.verdict(found) == "not judged"
    again = {"step": 6, **results.flatten_untrained(scores(motion=55.0)), **now}
    found = results.read_scores([*records[:2], again, records[2]])["clip"]["motion"]
    assert (found["top1"], found["untrained_top1"], found["untrained_standard_error"]) == (60.0, 55.0, 1.0)
    assert results.judged_steps([*records, again]) == [0, 4, 8]
    # And back to the videos of the beginning.
    back = record(9, motion=30.0) | before
    assert results.read_scores([*records[:2], again, records[2], back])["clip"]["motion"]["untrained_top1"] == 12.0


def test_error_of_a_difference_by_hand():
    assert results.difference_error({"standard_error": 3.0, "untrained_standard_error": 4.0}) == pytest.approx(5.0)
    assert math.isnan(results.difference_error({"standard_error": 3.0}))
