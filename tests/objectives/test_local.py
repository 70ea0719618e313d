"""Which token is compared with which, on labelled tokens and predictors that repeat what they are given."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.hierarchy import LEVELS, Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.objectives import distances, draws, local, regularizers
from tests import small

SIZES = Hierarchy(LEVELS, 2, 3, 2)
OBJECTIVE = small.small_settings().objective
BATCH = 2


def _labels(level: str, shift: float | jax.Array) -> jax.Array:
    """Token n of video b is the number 1000 b + n + offset of its level + shift, in two features."""
    numbers = 1000 * np.arange(BATCH)[:, None] + np.arange(SIZES.num_tokens(level)) + OFFSET[level] + shift
    return jnp.stack([numbers, numbers], -1).astype(jnp.float32)


OFFSET = {"patch": 100.0, "frame": 200.0, "clip": 300.0, "sequence": 400.0}
STATES = 500.0


def _hierarchy(causal=(), side=True):
    return small.predicting(dataclasses.replace(SIZES, causal=causal), side)


@functools.cache
def _predict(causal=(), side=True):
    """Return predictions, draws and outputs by edge and level."""
    return jax.device_get(jax.jit(lambda: _trace(causal, side))())


def _trace(causal=(), side=True, attached=False, shifts=None):
    hierarchy, outputs = _hierarchy(causal, side), {}
    for level in LEVELS:
        states = None
        if level in causal:
            members = SIZES.num_tokens(level) * SIZES.num_members(level)
            numbers = 1000 * np.arange(BATCH)[:, None] + OFFSET[level] + STATES + np.arange(members)
            states = jnp.stack([numbers, numbers], -1).astype(jnp.float32)
        tokens = _labels(level, shifts[level] if shifts else 0.0)
        outputs[level] = LevelOutput(tokens, tokens * 0.5, states)

    def repeat(tokens, codes, **_):
        return tokens

    levels = {
        level: types.SimpleNamespace(predictors=dict.fromkeys(("up", "down", "side"), repeat)) for level in LEVELS
    }
    pyramid = types.SimpleNamespace(levels=levels, hierarchy=hierarchy)
    asked = draws.draw_step(jax.random.key(0), hierarchy, batch=BATCH, std_divisor=3.0)
    return local.predict(pyramid, outputs, asked, train=True, attached=attached), asked, outputs


def _numbers(prediction: local.Prediction, video: int = 1):
    """Labels of source and target tokens of one video, without the video's thousand."""
    parts = prediction.prediction, prediction.target
    return [(np.asarray(part)[video, :, 0] - 1000 * video).tolist() for part in parts]


def test_up_asks_for_the_token_of_the_own_group():
    found = _predict()[0]
    source, target = _numbers(found["patch->frame/up"])
    assert source == [100 + n for n in range(12)] and target == [200 + n // 2 for n in range(12)]
    source, target = _numbers(found["frame->clip/up"])
    assert source == [200 + n for n in range(6)] and target == [300 + n // 3 for n in range(6)]
    source, target = _numbers(found["clip->sequence/up"])
    assert source == [300, 301] and target == [400]  # shared by all, not repeated


def test_a_drawn_target_is_the_token_that_the_draw_names():
    for side in (True, False):
        found, asked, _ = _predict(side=side)
        for name, draw in asked.items():
            target_level = name.split("->")[1].split("/")[0]
            _, target = _numbers(found[name])
            assert target == [OFFSET[target_level] + n for n in np.asarray(draw.target)[1].tolist()]


def test_causal_levels_ask_for_the_next_member_and_for_the_state_before():
    found = _predict(causal=("frame", "clip", "sequence"))[0]
    # Down: state n, which has seen members 0..n of its group, asks for member n + 1.
    source, target = _numbers(found["clip->frame/down"])
    assert source == [800 + n for n in range(5)] and target == [201 + n for n in range(5)]
    source, target = _numbers(found["frame->patch/down"])
    assert source == [700 + n for n in range(11)] and target == [101 + n for n in range(11)]
    # Up: member n asks for the state that came before it.
    source, target = _numbers(found["frame->clip/up"])
    assert source == [201 + n for n in range(5)] and target == [800 + n for n in range(5)]
    source, target = _numbers(found["clip->sequence/up"])
    assert source == [301] and target == [900]


@pytest.mark.parametrize("attached", [False, True])
def test_targets_are_stopped_unless_attached_and_patches_always(attached):
    def total(shifts):
        found = _trace(attached=attached, shifts=shifts)[0]
        return {name: prediction.target.sum() for name, prediction in found.items()}

    slopes = jax.jit(jax.jacrev(total))(dict.fromkeys(LEVELS, 0.0))
    for name, by_level in slopes.items():
        target = name.split("->")[1].split("/")[0]
        for level, slope in by_level.items():
            assert (float(slope) != 0) == (attached and level == target != "patch"), (name, level)


def test_losses_by_edge_regularisers_of_raw_tokens_and_their_weighted_sum():
    (found, _, outputs), hierarchy = _predict(), _hierarchy()
    edges = hierarchy.edges
    settings = dataclasses.replace(OBJECTIVE, distance="mse", regularizer_weight=0.25, variance_epsilon=0.01)
    weights = {str(edge): 1.0 + index for index, edge in enumerate(edges)}
    losses = local.local_losses(found, outputs, hierarchy, settings, edge_weights=weights)
    assert {level: list(by_edge) for level, by_edge in losses.edges.items()} == {
        level: [str(edge) for edge in edges if edge.source == level] for level in LEVELS
    }
    expected = 0.0
    for edge in edges:
        source, target = found[str(edge)].prediction, found[str(edge)].target
        loss = float(np.square(source - target).mean())
        assert float(losses.edges[edge.source][str(edge)]) == pytest.approx(loss)
        expected += weights[str(edge)] * loss
    for level in LEVELS:
        variance, covariance = regularizers.variance_covariance(outputs[level].raw, None, 0.01)
        own = settings.variance_weight * variance + settings.covariance_weight * covariance
        assert float(losses.regularizers[level]) == pytest.approx(float(own))
        expected += 0.25 * float(own)
    assert float(losses.total) == pytest.approx(expected, rel=1e-6)


def test_vicreg_counts_a_down_target_only_on_the_lowest_level():
    (found, _, outputs), hierarchy = _predict(), _hierarchy()
    edges = hierarchy.edges
    settings = dataclasses.replace(OBJECTIVE, distance="vicreg")
    losses = local.local_losses(found, outputs, hierarchy, settings, edge_weights={str(edge): 1.0 for edge in edges})
    for edge in edges:
        both = edge.relation != "down" or edge.target == "patch"
        pair = found[str(edge)].prediction, found[str(edge)].target
        expected = distances.distance(settings, *pair, None, regularize_target=both)
        other = distances.distance(settings, *pair, None, regularize_target=not both)
        assert float(losses.edges[edge.source][str(edge)]) == pytest.approx(float(expected))
        assert float(expected) != float(other)


def test_patches_asked_by_frames_count_more():
    hierarchy = _hierarchy()
    objective = dataclasses.replace(OBJECTIVE, patch_weight=16.0)
    weights = local.initial_edge_weights(hierarchy.edges, objective)
    assert weights.pop("frame->patch/down") == 16.0 and set(weights.values()) == {1.0}
    halved = dataclasses.replace(objective.edge_weights.frame, down=0.5)
    objective = dataclasses.replace(objective, edge_weights=dataclasses.replace(objective.edge_weights, frame=halved))
    assert local.initial_edge_weights(hierarchy.edges, objective)["frame->patch/down"] == 8.0
