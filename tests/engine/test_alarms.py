"""Alarms by small histories."""

import pytest

from hvt_jax.engine import alarms


def healthy(steps=31):
    return [
        {
            "step": 10 * i,
            "train/frame->clip/up": 1.0 - 0.01 * i,
            "monitor/frame->clip/up/mean_ratio": 1.0 - 0.02 * i,
            "monitor/frame/rank": 20.0 - i / 4,
            "monitor/frame/rank_share": 0.3,
            "monitor/frame/std": 0.5,
            "monitor/clip/rank": 15.0,
            "monitor/clip/rank_share": 0.2,
            "monitor/clip/std": 0.4,
        }
        for i in range(steps)
    ]


def changed(**columns):
    """The healthy history with columns replaced from the end."""
    history = healthy()
    for name, values in columns.items():
        for record, value in zip(history[-len(values) :], values, strict=True):
            record[name.replace("__", "/").replace("_to_", "->")] = value
    return history


def texts(history):
    return [alarm.text for alarm in alarms.find(history)]


def new_texts(history, since):
    return [alarm.text for alarm in alarms.find_new(history, since)]


def test_a_healthy_run_and_an_empty_one_raise_no_alarm():
    assert texts(healthy()) == []
    assert texts([]) == []
    assert texts([{"step": 0, "knn/frame/top1": 3.0}]) == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"monitor__clip__std": [0.0004]}, ["clip: the standard deviation", "0.0004", "dead"]),
        ({"monitor__frame__rank_share": [0.04, 0.03, 0.04]}, ["frame: the effective rank 12.5 is 4.0 %", "few"]),
        (
            {"monitor__frame_to_clip__up__mean_ratio": [0.97] * alarms.PATIENCE},
            ["frame->clip/up: the loss is 0.97", "nothing"],
        ),
        (
            {"monitor__frame_to_clip__up__copy_ratio": [0.99] * alarms.PATIENCE},
            ["0.99 of what copying the source costs", "copying"],
        ),
        (
            {"train__frame_to_clip__up": [0.03, 0.02, 0.01], "monitor__clip__rank": [1.5]},
            ["frame->clip/up: the loss fell from 1 to 0.02", "rank of clip fell from 15.0 to 1.5", "collapse"],
        ),
    ],
)
def test_each_rule_alarms_once_in_plain_words(columns, words):
    found = texts(changed(**columns))
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize(
    "columns",
    [
        {"monitor__frame__rank_share": [0.04, 0.06, 0.04]},
        {"monitor__frame_to_clip__up__mean_ratio": [0.97] * 10 + [0.5] + [0.97] * 19},
        {"train__frame_to_clip__up": [0.03, 0.02, 0.01]},
        {"monitor__clip__rank": [1.5]},
        {"monitor__clip__std": [float("nan")]},
    ],
)
def test_half_a_sign_is_no_alarm(columns):
    assert texts(changed(**columns)) == []


def test_the_untrained_network_does_not_count_as_a_check():
    """Before training every predictor is as bad as the trivial one."""
    record = {"train/frame->clip/up": 1.0, "monitor/frame->clip/up/mean_ratio": 1.0}
    history = [{"step": step, **record} for step in range(alarms.PATIENCE + 1)]
    assert texts(history[:-1]) == []
    assert len(texts(history)) == 1


def test_an_alarm_is_new_once_whatever_its_numbers():
    low = changed(monitor__clip__std=[0.004, 0.003, 0.002])
    steps = [record["step"] for record in low]
    assert new_texts(low, since=-1) == new_texts(low, since=steps[-4]) == texts(low)
    assert len(texts(low)) == 1
    assert new_texts(low, since=steps[-2]) == []  # 0.003 then, 0.002 now
    second = changed(monitor__clip__std=[0.004, 0.003, 0.002], monitor__frame__std=[0.5, 0.5, 0.001])
    (text,) = new_texts(second, since=steps[-2])
    assert text.startswith("frame: the standard deviation")


def test_series_is_by_step_and_a_repeated_step_counts_once():
    history = [{"step": 2, "a": 5}, {"step": 1, "a": 3.0}, {"step": 2, "a": 6}, {"step": 3, "a": None}, {"step": 4}]
    assert alarms.series(history, "a") == ([1, 2], [3.0, 6.0])


def test_an_alarm_knows_its_first_bad_check_and_whether_it_is_a_collapse():
    low = changed(monitor__clip__std=[0.004, 0.003, 0.002])
    (alarm,) = alarms.find(low)
    assert (alarm.kind, alarm.where, alarm.since, alarm.is_collapse) == ("dead", ("clip",), 280, True)
    (alarm,) = alarms.find(changed(monitor__frame__rank_share=[0.04, 0.03, 0.02, 0.04]))
    assert (alarm.kind, alarm.since, alarm.is_collapse) == ("rank", 270, True)
    (alarm,) = alarms.find(changed(monitor__frame_to_clip__up__mean_ratio=[0.97] * alarms.PATIENCE))
    assert (alarm.kind, alarm.since, alarm.is_collapse) == ("mean", 110, False)


def test_an_alarm_that_went_out_again_was_raised():
    history = changed(monitor__frame__std=[0.0001] * 5 + [0.5] * 10)
    assert [alarm.where for alarm in alarms.find(history)] == []
    assert {alarm.where[0] for alarm in alarms.find_ever(history)} == {"frame"}
    assert alarms.find_ever(healthy()) == set()
