"""Monitors by hand-computed values, on degenerate input too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import monitors

RANDOM = np.random.default_rng(0)


def monitor(tokens, valid=None):
    tokens = jnp.asarray(tokens, jnp.float32)
    valid = jnp.ones(len(tokens), bool) if valid is None else jnp.asarray(valid)
    return {name: float(score) for name, score in jax.jit(monitors.monitor_rows)(tokens, valid).items()}


def effective_rank(tokens):
    """The definition, in double precision, by singular values."""
    tokens = np.asarray(tokens, np.float64)
    singular = np.linalg.svd(tokens - tokens.mean(0), compute_uv=False)
    share = singular / singular.sum()
    share = share[share > 0]
    return np.exp(-(share * np.log(share)).sum())


def test_cross_by_hand():
    """Four points on two axes, one three times longer: shares 3/4 and 1/4, rank exp(0.5623)."""
    scores = monitor([[3, 0], [-3, 0], [0, 1], [0, -1]])
    assert scores["rank"] == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), rel=1e-5)
    assert scores["rank_share"] == pytest.approx(scores["rank"] / 2, rel=1e-6)
    assert scores["std"] == pytest.approx((np.sqrt(18 / 4) + np.sqrt(2 / 4)) / 2, rel=1e-6)
    assert scores["std_share"] == pytest.approx(np.sqrt(1 / 2) * np.sqrt(2), rel=1e-6)
    # Of 6 pairs two point in opposite directions, four are at right angles.
    assert scores["cosine"] == pytest.approx(-2 / 6, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 64])
@pytest.mark.parametrize(("scale", "mean"), [(1.0, 0.0), (1.0, 20.0), (1e-12, 0.0), (1e12, 0.0)])
def test_rank_of_float32_tokens_is_that_of_double_precision(rank, scale, mean):
    """Noise of the eigenvalues must not add directions: unguarded, rank 1 reads 1.05 here and 1.3 at width 768."""
    tokens = RANDOM.normal(size=(256, rank)) @ RANDOM.normal(size=(rank, 64)) * scale + mean
    assert monitor(tokens)["rank"] == pytest.approx(effective_rank(tokens.astype(np.float32)), rel=2e-3)


def test_mean_cosine_is_that_of_all_pairs():
    tokens = RANDOM.normal(size=(20, 7)) + 0.5
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    expected = (unit @ unit.T)[~np.eye(20, dtype=bool)].mean()
    assert monitor(tokens)["cosine"] == pytest.approx(expected, rel=1e-4)


def test_invalid_rows_count_for_nothing_even_if_nan():
    tokens = RANDOM.normal(size=(30, 8)).astype(np.float32)
    valid = np.arange(30) % 3 > 0
    damaged = np.where(valid[:, None], tokens, np.nan)
    assert monitor(damaged, valid) == pytest.approx(monitor(tokens[valid]), rel=1e-4)


def test_share_counts_what_few_rows_allow():
    """Five rows span at most four centred directions, however wide the level is."""
    scores = monitor(np.eye(5, 512))
    assert scores["rank"] == pytest.approx(4, rel=1e-4) and scores["rank_share"] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "valid", "cosine"),
    [
        (np.zeros((8, 4)), np.ones(8, bool), 0),
        (np.full((8, 4), 3.7), np.ones(8, bool), 1),
        (RANDOM.normal(size=(8, 4)), np.arange(8) == 2, 0),
        (np.full((8, 4), np.nan), np.zeros(8, bool), 0),
        (np.ones((1, 4)), np.ones(1, bool), 0),
    ],
    ids=["zeros", "all the same", "one row", "no row", "one token"],
)
def test_degenerate_tokens_are_dead_and_finite(tokens, valid, cosine):
    scores = monitor(tokens, valid)
    assert scores["rank"] == scores["rank_share"] == 0
    assert scores["std"] == pytest.approx(0, abs=1e-6) and scores["std_share"] == pytest.approx(0, abs=1e-5)
    assert scores["cosine"] == pytest.approx(cosine, abs=1e-5)


def test_gradients_are_zero_and_finite_through_the_monitors():
    gradient = jax.grad(lambda x: sum(monitors.monitor_rows(x, np.ones(8, bool)).values()))
    np.testing.assert_array_equal(jax.jit(gradient)(np.zeros((8, 4), np.float32)), 0)


choose_rows = jax.jit(monitors.choose_rows, static_argnums=2)


def test_rows_are_spread_over_videos_and_over_places_in_them():
    tokens = np.arange(16 * 64, dtype=np.float32).reshape(16, 64, 1)
    rows, valid = choose_rows(tokens, np.arange(16) != 3, 128)
    rows = np.asarray(rows)[:, 0].astype(int)
    assert len(set(rows)) == 128
    np.testing.assert_array_equal(np.bincount(rows // 64, minlength=16), 8)
    assert len(set(rows % 64)) > 40  # a constant stride of 8 would see 8 places only
    np.testing.assert_array_equal(np.asarray(valid), rows // 64 != 3)


def test_small_batches_are_taken_whole():
    tokens = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    rows, valid = choose_rows(tokens, np.array([True, False, True]), 1024)
    np.testing.assert_array_equal(rows[:, 0], np.arange(6))
    np.testing.assert_array_equal(valid, [True, True, False, False, True, True])


def test_levels_are_named_and_bfloat16_is_measured_in_float32():
    tokens = {"clip": jnp.asarray(RANDOM.normal(size=(4, 1, 8)), jnp.bfloat16), "frame": jnp.ones((4, 5, 6))}
    scores = jax.jit(monitors.monitor_levels, static_argnums=2)(tokens, np.ones(4, bool), 16)
    names = ("rank", "rank_share", "std", "std_share", "cosine")
    assert set(scores) == {f"monitor/{level}/{name}" for level in tokens for name in names}
    assert all(score.dtype == jnp.float32 and score.shape == () for score in scores.values())
    assert float(scores["monitor/frame/std"]) == 0 and float(scores["monitor/clip/std"]) > 0.3


def test_the_mean_target_is_of_the_predictions_that_count():
    mean_target, target = jax.jit(monitors.mean_target), np.array([0, 4, 1000], np.float32).reshape(3, 1, 1)
    assert mean_target(target, np.array([[True], [True], [False]])).tolist() == [2.0]
    # One target that four predictions share counts once.
    shared = mean_target(target, np.array([[True] * 4, [True, False, False, False], [False] * 4]))
    assert shared.tolist() == [2.0]
    assert mean_target(target[:2], None).tolist() == [2.0]


def test_a_ratio_to_an_answer_that_costs_nothing_is_1():
    assert float(monitors.loss_ratio(jnp.float32(1), jnp.float32(4))) == 0.25
    assert float(monitors.loss_ratio(jnp.float32(0), jnp.float32(0))) == 1
