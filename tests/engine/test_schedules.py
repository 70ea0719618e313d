"""Schedules against the original's numbers (every misc.json of golden files) and against hand-computed ones."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import schedules
from hvt_jax.settings import LevelEpochs, OptimizerSettings
from tests import golden_files

GROUPS = ("frame", "frame/predictors", "clip", "clip/predictors", "sequence", "sequence/predictors")
SETTINGS = OptimizerSettings(
    name="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    momentum=0.8,
    nesterov=True,
    b1=0.9,
    b2=0.95,
    clip_norm=0.0,
    predictors="own",
    predictor_rate_multiplier=3.0,
    predictor_name="sgd",
    single=False,
    schedule="constant",
    warmup_epochs=0.0,
    final_rate=1e-4,
    step_epochs=1.0,
    step_decay=0.8,
    accumulation_steps=1,
    alternating_percent=0.0,
    frozen=(),
    start_epochs=LevelEpochs(patch=0.0, frame=0.0, clip=0.0, sequence=0.0),
    max_bad_updates=10,
)


@golden_files.each_misc_item("validation_epochs")
def test_validation_epochs_are_the_originals(key, golden):
    kind, interval, num_epochs = key.split(":")
    epochs = schedules.validation_epochs(kind, float(interval), int(num_epochs))
    assert list(epochs) == golden


def test_validation_epochs_at_the_edges():
    assert schedules.validation_epochs("linear", 0.5, 4) == (1, 2, 3, 4)
    assert schedules.validation_epochs("linear", 2.5, 11) == (2, 5, 7, 10)
    assert schedules.validation_epochs("linear", 5, 3) == ()
    assert schedules.validation_epochs("exponential", 2, 1) == (1,)
    assert schedules.validation_epochs("exponential", 2, 0) == ()
    for factor in (1.0000001, 1.000000001):  # at once, not after a billion turns
        assert schedules.validation_epochs("exponential", factor, 30) == tuple(range(1, 31))
    every = {int(1.005**n) for n in range(1000) if 1.005**n < 50} | {50}
    assert schedules.validation_epochs("exponential", 1.005, 50) == tuple(sorted(every))


@golden_files.each_misc("loss_weights_24_epochs")
def test_edge_weights_follow_the_originals(golden):
    """One epoch at a time and rounded, exactly; as one line from the start, within its rounding."""
    for name, first in golden[0].items():
        weight = first
        for epoch in range(1, len(golden)):
            weight = round(schedules.edge_weight_at(weight, 1, len(golden) - epoch), 3)
            assert weight == golden[epoch][name]
            assert abs(schedules.edge_weight_at(first, epoch, 24) - weight) < 3e-3


def test_edge_weight_stops_at_one_and_traces():
    assert schedules.edge_weight_at(3.0, 0, 10) == 3.0
    assert schedules.edge_weight_at(3.0, 5, 10) == 2.0
    assert schedules.edge_weight_at(3.0, 99, 10) == 1.0
    traced = jax.jit(lambda step: schedules.edge_weight_at(0.2, step, 10))(jnp.array(5))
    np.testing.assert_allclose(traced, 0.6, rtol=1e-6)


def _original(peak, start, final, warmup_epochs):
    """The original's schedule in epochs: warm-up over the first ones, then a cosine of half period 6."""
    return schedules.RateSchedule("cosine", peak, start, warmup_epochs, final, 6, 1, 1.0)


# name -> (warm-up epochs, peak, rate at epoch 0, lowest rate); predictors have 3 times all of them.
ORIGINAL_RATES = {
    "default_warm6_cos6": (6, 0.1, 1e-3, 1e-4),
    "no_warmup_cos6": (0, 0.1, 0.1, 1e-4),
    "custom_example2": (8, 0.1, 1e-3, 1e-4),
    "custom_vicreg": (10, 0.006, 1e-5, 1e-5),
}


# The original's mode 1 multiplies only the peak of predictors: start of the warm-up and end of the cosine are shared.
SHARED_RATES = {"pred_aside1_default_[mod,pred]": 6, "pred_aside1_no_warmup_[mod,pred]": 0}  # name -> warm-up epochs


def _schedules(key: str) -> dict:
    """Return {part: our schedule in epochs} for a name in the section `lr_per_epoch`."""
    if key == "probe_StepLR":
        settings = dataclasses.replace(SETTINGS, schedule="step")
        return {"": lambda epoch: schedules.learning_rate(settings, epoch, steps_per_epoch=1, num_steps=99)}
    if key in SHARED_RATES:
        return {part: _original(peak, 1e-3, 1e-4, SHARED_RATES[key]) for part, peak in (("mod", 0.1), ("pred", 0.3))}
    warmup_epochs, *rates = ORIGINAL_RATES[key]  # a name that is not there needs its settings here
    return {
        part: _original(*(factor * rate for rate in rates), warmup_epochs) for part, factor in (("mod", 1), ("pred", 3))
    }


@golden_files.each_misc_item("lr_per_epoch")
def test_rates_are_the_originals(key, golden):
    stored = golden
    if not isinstance(golden, dict):
        stored = dict(zip(("mod", "pred"), np.transpose(golden), strict=True)) if key in SHARED_RATES else {"": golden}
    ours = _schedules(key)
    assert ours.keys() == stored.keys()
    for part, rates in stored.items():
        np.testing.assert_allclose([ours[part](epoch) for epoch in range(len(rates))], rates, rtol=1e-9)


@golden_files.each_misc("lr_per_epoch")
def test_settings_give_the_original_schedule_without_its_second_climb(golden):
    settings = dataclasses.replace(SETTINGS, schedule="cosine", warmup_epochs=6.0)
    golden = golden["default_warm6_cos6"]
    rates = [schedules.learning_rates(settings, GROUPS, epoch, steps_per_epoch=1, num_steps=12) for epoch in range(30)]
    # The warm-up itself differs: from peak / 6, not from the original's own setting.
    np.testing.assert_allclose([rate["clip"] for rate in rates[:6]], 0.1 * np.arange(1, 7) / 6)
    for label, part, factor in (("clip", "mod", 1), ("clip/predictors", "pred", 3)):
        np.testing.assert_allclose([rate[label] for rate in rates[5:12]], golden[part][5:12], rtol=1e-9)
        np.testing.assert_allclose([rate[label] for rate in rates[12:]], factor * 1e-4, rtol=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "step", "constant"])
@pytest.mark.parametrize("warmup_epochs", [0.0, 0.1, 1.0, 2.5, 40.0])
def test_rates_agree_between_host_and_device_and_stay_in_range(kind, warmup_epochs):
    settings = dataclasses.replace(SETTINGS, schedule=kind, warmup_epochs=warmup_epochs, step_epochs=0.7)
    host = np.array([schedules.learning_rate(settings, s, steps_per_epoch=10, num_steps=60) for s in range(60)])
    device = jax.jit(lambda s: schedules.learning_rate(settings, s, steps_per_epoch=10, num_steps=60))(jnp.arange(60))
    np.testing.assert_allclose(device, host, rtol=1e-5, atol=1e-7)
    assert (host > 0).all() and (host <= settings.learning_rate * (1 + 1e-12)).all()
    top = max(round(warmup_epochs * 10) - 1, 0)
    assert (np.diff(host[: top + 1]) > 0).all() and (np.diff(host[top:]) <= 0).all()
    if top < 60:
        assert host[top] == settings.learning_rate


def _moves(settings, steps, steps_per_epoch):
    rows = [schedules.moving_labels(settings, GROUPS, step, steps_per_epoch=steps_per_epoch) for step in steps]
    return {label: "".join("-x"[bool(row[label])] for row in rows) for label in rows[0]}


def test_turns_go_on_through_the_ends_of_epochs():
    """3 turns in an epoch of 6 steps: the second epoch begins with the levels of odd index."""
    moves = _moves(dataclasses.replace(SETTINGS, alternating_percent=33.3), range(24), steps_per_epoch=6)
    assert moves["frame"] == moves["sequence"] == "xx--xx--xx--xx--xx--xx--"
    assert moves["clip"] == moves["clip/predictors"] == "--xx--xx--xx--xx--xx--xx"


@pytest.mark.parametrize("percent", [1.0, 10.0, 20.0, 33.3, 50.0, 100.0])
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 25, 100])
@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_exactly_one_half_moves_and_turns_are_equally_long(percent, steps_per_epoch, accumulation_steps):
    settings = dataclasses.replace(SETTINGS, alternating_percent=percent, accumulation_steps=accumulation_steps)
    moves = _moves(settings, range(1200), steps_per_epoch)
    assert moves["frame"].translate(str.maketrans("x-", "-x")) == moves["clip"]
    assert moves["frame"] == moves["sequence"] == moves["frame/predictors"] and moves["frame"][0] == "x"
    lengths = [len(list(turn)) for _, turn in itertools.groupby(moves["frame"])]
    assert set(lengths[:-1]) == {lengths[0]} and lengths[-1] <= lengths[0] and lengths[0] % accumulation_steps == 0
    miss = abs(lengths[0] - percent / 100 * steps_per_epoch)
    assert miss <= accumulation_steps / 2 or lengths[0] == accumulation_steps


def test_staged_start_and_freezing():
    start = LevelEpochs(patch=0.0, frame=0.0, clip=1.0, sequence=1.5)
    moves = _moves(dataclasses.replace(SETTINGS, start_epochs=start, frozen=("frame/predictors",)), range(8), 4)
    assert moves["frame"] == "xxxxxxxx" and moves["frame/predictors"] == "--------"
    assert moves["clip"] == moves["clip/predictors"] == "----xxxx"
    assert moves["sequence"] == "------xx"


def test_an_update_keeps_the_rate_and_the_turn_of_its_first_batch():
    start = LevelEpochs(patch=0.0, frame=0.0, clip=0.5, sequence=0.0)
    settings = dataclasses.replace(SETTINGS, schedule="cosine", accumulation_steps=4, start_epochs=start)
    assert _moves(settings, range(12), steps_per_epoch=12)["clip"] == "--------xxxx"
    rates = [schedules.learning_rates(settings, GROUPS, s, steps_per_epoch=12, num_steps=12)["clip"] for s in range(12)]
    assert rates == [rates[s - s % 4] for s in range(12)] and math.isclose(rates[0], 0.1) and rates[4] < rates[0]
