"""The draws of a step as index tables: who is asked for, by which code, how often."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.hierarchy import LEVELS, Edge, Hierarchy
from hvt_jax.objectives import draws
from tests import small

CLIPS, FRAMES, PATCHES = 2, 3, 4
SIZES = Hierarchy(LEVELS, CLIPS, FRAMES, PATCHES)
DIVISOR = 3.0
MANY = 4000


def _draw_by(key, side, *, causal=(), batch=5):
    hierarchy = small.predicting(dataclasses.replace(SIZES, causal=causal), side)
    return draws.draw_step(key, hierarchy, batch=batch, std_divisor=DIVISOR)


@functools.cache
def _draw(side, *, causal=(), batch=5):
    draw = jax.jit(functools.partial(_draw_by, side=side, causal=causal, batch=batch))
    return jax.device_get(draw(jax.random.key(0)))


def _labels(level: str) -> list[str]:
    """Name every token of a level in time order: clip A, frame A1, patch A1:0."""
    frames = [f"{'AB'[clip]}{frame}" for clip in range(CLIPS) for frame in range(FRAMES)]
    return {
        "clip": ["A", "B"],
        "frame": frames,
        "patch": [f"{frame}:{patch}" for frame in frames for patch in range(PATCHES)],
    }[level]


def test_only_what_draws_is_drawn():
    assert sorted(_draw(side=True)) == [
        "clip->clip/side",
        "clip->frame/down",
        "frame->frame/side",
        "frame->patch/down",
        "patch->patch/side",
        "sequence->clip/down",
    ]
    assert sorted(_draw(side=True, causal=("frame", "clip", "sequence"))) == ["patch->patch/side"]
    assert sorted(_draw(side=False, causal=("clip",))) == ["frame->patch/down", "sequence->clip/down"]


@pytest.mark.parametrize(("edge", "source"), [("frame->patch/down", "frame"), ("clip->frame/down", "clip")])
def test_with_side_a_group_is_asked_for_its_own_members(edge, source):
    draw = _draw(side=True, batch=50)[edge]
    assert list(draw.codes) == ["member"]
    names, groups = _labels(edge[len(source) + 2 :].split("/")[0]), _labels(source)
    members = SIZES.num_members(source)
    for targets, codes in zip(draw.target.tolist(), draw.codes["member"].tolist(), strict=True):
        for group, (target, member) in enumerate(zip(targets, codes, strict=True)):
            assert names[target].startswith(groups[group])
            assert target == group * members + member
    assert set(np.unique(draw.codes["member"])) == set(range(members))


@pytest.mark.parametrize(("edge", "source"), [("frame->patch/down", "frame"), ("clip->frame/down", "clip")])
def test_without_side_a_group_is_asked_for_members_of_any_group(edge, source):
    draw = _draw(side=False, batch=50)[edge]
    assert sorted(draw.codes) == ["group", "member"]
    members, groups = SIZES.num_members(source), SIZES.num_tokens(source)
    np.testing.assert_array_equal(draw.target, draw.codes["group"] * members + draw.codes["member"])
    # Every group is asked for every other one, itself among them.
    asked = {(own, int(group)) for row in np.asarray(draw.codes["group"]) for own, group in enumerate(row)}
    assert asked == {(own, group) for own in range(groups) for group in range(groups)}
    assert int(draw.target.min()) == 0 and int(draw.target.max()) == groups * members - 1


def test_a_single_group_needs_no_code_of_the_group():
    draw = _draw(side=False)["sequence->clip/down"]
    assert list(draw.codes) == ["member"] and draw.target.shape == (5, 1)
    np.testing.assert_array_equal(draw.target, draw.codes["member"])


@pytest.mark.parametrize("level", ["patch", "frame", "clip"])
def test_side_is_another_time_at_the_same_patch_position(level):
    draw = _draw(side=True, batch=60)[f"{level}->{level}/side"]
    names, times = _labels(level), SIZES.num_times(level)
    assert draw.target.shape == (60, len(names)) == draw.codes["distance"].shape
    pairs = {}
    for targets, codes in zip(draw.target.tolist(), draw.codes["distance"].tolist(), strict=True):
        for source, (target, code) in enumerate(zip(targets, codes, strict=True)):
            assert 0 <= target < len(names) and target != source
            if level == "patch":
                assert names[target].split(":")[1] == names[source].split(":")[1]
                assert names[target].split(":")[0] != names[source].split(":")[0]
            distance = target - source if level != "patch" else (target - source) // PATCHES
            pairs.setdefault(distance, set()).add(code)
    # One code a distance and one distance a code, all of them in the table of 2N-2.
    assert all(len(codes) == 1 for codes in pairs.values())
    codes = [code for codes in pairs.values() for code in codes]
    assert len(set(codes)) == len(codes) and 0 <= min(codes) and max(codes) <= 2 * times - 3


def test_distance_codes_by_hand():
    source, target = np.meshgrid(np.arange(3), np.arange(3), indexing="ij")
    codes = np.asarray(draws.distance_code(source, target, 3))
    off = ~np.eye(3, dtype=bool)
    # Distances -2, -1, 1, 2 have codes 0, 1, 2, 3.
    assert codes[off].tolist() == [2, 3, 1, 2, 0, 1]


def test_patches_of_a_frame_look_at_the_same_other_frame():
    target = np.asarray(_draw(side=True)["patch->patch/side"].target).reshape(5, CLIPS * FRAMES, PATCHES)
    np.testing.assert_array_equal(target // PATCHES, np.broadcast_to(target[..., :1] // PATCHES, target.shape))


def _truncated_normal(times: int, source: int) -> np.ndarray:
    """Draw until it is legal, as the rule is stated, from 400,000 normal numbers."""
    rng = np.random.default_rng(source)
    std = max(source, times - source) / DIVISOR
    drawn = np.floor(rng.normal(source, std, 400_000) + 0.5).astype(int)
    drawn = drawn[(drawn >= 0) & (drawn < times) & (drawn != source)]
    return np.bincount(drawn, minlength=times) / len(drawn)


@pytest.mark.parametrize("source", range(6))
def test_side_follows_the_truncated_normal(source):
    drawn = np.asarray(_draw(side=True, batch=MANY)["frame->frame/side"].target[:, source])
    found, expected = np.bincount(drawn, minlength=6), MANY * _truncated_normal(6, source)
    kept = expected > 5
    chi_square = ((found - expected)[kept] ** 2 / expected[kept]).sum()
    assert found[~kept].sum() < 25
    # 99.99 % of a chi-square of 4 degrees of freedom; the seed is fixed, so it does not flicker.
    assert chi_square < 23.5
    table = np.exp(draws.side_log_probabilities(6, DIVISOR))
    np.testing.assert_allclose(table[source], _truncated_normal(6, source), atol=0.004)


def test_far_times_stay_possible_and_rows_are_distributions():
    table = draws.side_log_probabilities(64, 30.0)
    probabilities = np.exp(table)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-12)
    assert np.isneginf(np.diagonal(table)).all()
    assert np.isfinite(table[~np.eye(64, dtype=bool)]).all()


def test_members_and_groups_are_uniform():
    draw = _draw(side=False, batch=MANY)["clip->frame/down"]
    found = np.bincount(np.asarray(draw.target).ravel(), minlength=6)
    expected = 2 * MANY / 6
    assert ((found - expected) ** 2 / expected).sum() < 25.7  # 99.99 % at 5 degrees of freedom


def test_a_draw_is_a_function_of_its_key():
    one, again, other = (_draw_by(jax.random.key(seed), True) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert all((one[edge].target != other[edge].target).any() for edge in one if edge != "clip->clip/side")
    jitted = jax.jit(lambda: _draw_by(jax.random.key(3), True))()
    jax.tree.map(np.testing.assert_array_equal, one, jitted)


def test_videos_and_edges_draw_independently():
    found = _draw(side=True, batch=MANY)
    first, second = (np.asarray(found["frame->frame/side"].target)[n::2, 2] for n in (0, 1))
    joint = np.zeros((6, 6))
    np.add.at(joint, (first, second), 1)
    expected = np.outer(joint.sum(1), joint.sum(0)) / joint.sum()
    kept = expected > 5
    assert ((joint - expected)[kept] ** 2 / expected[kept]).sum() < 50  # about 16 degrees of freedom
    down = np.asarray(found["frame->patch/down"].codes["member"])
    side = np.asarray(found["clip->frame/down"].codes["member"])
    assert abs(np.corrcoef(down[:, 0], side[:, 0])[0, 1]) < 0.06


def test_std_divisor_narrows_the_neighbourhood():
    near, far = (np.exp(draws.side_log_probabilities(9, divisor)) for divisor in (9.0, 1.0))
    distance = np.abs(np.arange(9) - 4)
    assert near[4] @ distance < 1.1 < 2.0 < far[4] @ distance


def test_codes_fit_their_tables():
    for side in (True, False):
        for name, draw in _draw(side, batch=200).items():
            source, rest = name.split("->")
            edge = Edge(source, *rest.split("/"))
            tables = small.predicting(SIZES, side).codes(edge)
            assert tables.keys() == draw.codes.keys()
            for code, length in tables.items():
                values = np.asarray(draw.codes[code])
                assert values.dtype == jnp.int32 and values.min() >= 0 and values.max() == length - 1


@pytest.mark.parametrize("side", [True, False])
def test_every_draw_is_asked_once_and_as_training_asks_it(side):
    hierarchy = small.predicting(SIZES, side)

    @jax.jit
    def draw(key):
        edges = [edge for edge in hierarchy.edges if edge.relation != "up"]
        every = {str(edge): draws.every_draw(edge, hierarchy, batch=2, std_divisor=DIVISOR) for edge in edges}
        drawn = draws.draw_step(key, hierarchy, batch=20, std_divisor=DIVISOR)
        assert all(list(drawn[name].codes) == list(asked.codes) for name, (asked, _) in every.items())
        return every, drawn

    every, of_training = jax.device_get(draw(jax.random.key(0)))
    for name, (asked, share) in every.items():
        target = asked.target
        assert target.shape[:2] == (len(share), 2) and share.shape == target[:, 0].shape
        np.testing.assert_array_equal(target[:, 0], target[:, 1])
        np.testing.assert_allclose(share.sum(0), 1, rtol=1e-5)
        pairs = [(source, token) for row in target[:, 0].tolist() for source, token in enumerate(row)]
        assert len(pairs) == len(set(pairs)) and all(len(set(row)) == len(row) for row in target[:, 0].tolist())
        # Whatever training draws is among it, with the same codes.
        known = {}
        for number, row in enumerate(target[:, 0].tolist()):
            for source, token in enumerate(row):
                known[source, token] = [int(codes[number, 0, source]) for codes in asked.codes.values()]
        drawn = of_training[name]
        for video, row in enumerate(drawn.target.tolist()):
            for source, token in enumerate(row):
                assert known[source, token] == [int(codes[video, source]) for codes in drawn.codes.values()]
