"""When the numbers of a step are fetched, written and judged, on a device that notes who asks for what."""

import types

import pytest

from hvt_jax import run_log
from hvt_jax.engine.steps import LONGEST_BAD_ROW
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
        folder, writer = types.SimpleNamespace(path=str(tmp_path)), types.SimpleNamespace(note=None)
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
