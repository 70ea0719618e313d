"""What is due at every step of a run, from tables written out by hand."""

import pytest

from hvt_jax.run import events

# 7 steps, evaluated at 0, 4 and 7, saved every 3.
PLAN = events.Plan(steps_per_epoch=4, num_steps=7, evaluations=frozenset({0, 4, 7}), save_interval=3)


def _due(step, restored=None, evaluated=False, stop=False):
    due = events.events(step, PLAN, restored=restored, evaluated=evaluated, stop=stop)
    return " ".join(name for name, on in due._asdict().items() if on)


def test_a_run_from_beginning_to_end():
    assert [_due(step) for step in range(8)] == [
        "check evaluate",
        "",
        "",
        "check save",
        "check save evaluate",
        "",
        "check save",
        "check save evaluate done",
    ]


@pytest.mark.parametrize(
    ("step", "known", "found"),
    [
        (3, {"restored": 3}, "check"),  # what was restored is there already
        (4, {"restored": 4}, "check evaluate"),  # saved, and not evaluated before the end came
        (4, {"restored": 4, "evaluated": True}, "check"),
        (4, {"restored": 3, "evaluated": True}, "check save evaluate"),  # that was another step
        (7, {"restored": 7, "evaluated": True}, "check done"),
        (0, {"restored": 0, "evaluated": True}, "check"),  # after a rollback to the beginning
    ],
)
def test_after_a_restore(step, known, found):
    assert _due(step, **known) == found


@pytest.mark.parametrize(
    ("step", "known", "found"),
    [
        (0, {}, "check stop"),
        (1, {}, "check save stop"),
        (4, {}, "check save stop"),  # the resumed run evaluates
        (4, {"restored": 4}, "check stop"),
        (7, {}, "check save stop done"),  # there is an evaluation to make
        (7, {"restored": 7, "evaluated": True}, "check done"),  # there is nothing left to do
    ],
)
def test_when_told_to_stop(step, known, found):
    assert _due(step, stop=True, **known) == found
