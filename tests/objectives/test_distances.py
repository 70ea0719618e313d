"""Distances and regularisers by hand, on degenerate input and with masked videos."""

import dataclasses
import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.objectives import distances, regularizers
from hvt_jax.settings import Distance
from tests import small

NAMES = [name for name in typing.get_args(Distance) if name != "contrastive"]  # test_contrastive.py
OBJECTIVE = small.small_settings().objective


def _distance(name, prediction, target, valid=None, **changes):
    settings = dataclasses.replace(OBJECTIVE, distance=name, **changes)
    return _compiled(settings)(jnp.asarray(prediction, float), jnp.asarray(target, float), valid)


@functools.cache
def _compiled(settings, **options):
    return jax.jit(functools.partial(distances.distance, settings, **options))


@functools.cache
def _value_and_gradients(name):
    """Return compiled `f(prediction, target, valid)`: (loss, gradients of both)."""
    return jax.jit(jax.value_and_grad(functools.partial(_distance, name), argnums=(0, 1)))


def _softmax(x):
    exp = [math.exp(value) for value in x]
    return [value / sum(exp) for value in exp]


def test_mse_by_hand():
    # (1 + 0) / 2 and (9 + 16) / 2, and their mean.
    assert float(_distance("mse", [[[1, 2]], [[3, 4]]], [[[0, 2]], [[0, 0]]])) == 6.5


def test_smooth_l1_by_hand():
    # Errors 0.5, -1, 3: 0.125, 0.5 and 3 - 0.5.
    assert float(_distance("smooth_l1", [[[0.5, -1.0, 3.0]]], [[[0.0, 0.0, 0.0]]])) == pytest.approx(3.125 / 3)


def test_cosine_by_hand():
    found = _distance("cosine", [[[3, 4]], [[1, 0]]], [[[4, 3]], [[0, 2]]], cosine_scale=1.5)
    assert float(found) == pytest.approx(1.5 * ((1 - 24 / 25) + 1) / 2)


@pytest.mark.parametrize("epsilon", [1e-6, 0.01])
def test_cross_entropy_by_hand(epsilon):
    wanted, given = _softmax([0.2 / 0.5, 1.0 / 0.5]), _softmax([1.0 / 2, -1.0 / 2])
    expected = -sum(w * math.log(g + epsilon) for w, g in zip(wanted, given, strict=True))
    constants = {"target_temperature": 0.5, "prediction_temperature": 2.0, "cross_entropy_epsilon": epsilon}
    found = _distance("cross_entropy", [[[1, -1]]], [[[0.2, 1]]], **constants)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_variance_and_covariance_by_hand():
    # Rows (0, 0), (1, 2), (2, 1): means 1, unbiased variances 1, covariance ((-1)(-1) + 0 + 0 + ... ) / 2 = 1/2.
    tokens = jnp.array([[[0.0, 0], [1, 2]], [[2, 1], [1, 1]]])
    variance, covariance = jax.jit(regularizers.variance_covariance)(tokens, None, 0.01)
    # Four rows: column sums of squares 2 and 2 around mean 1, cross sum 1; divided by 3.
    assert float(variance) == pytest.approx(1 - math.sqrt(2 / 3 + 0.01), rel=1e-5)
    assert float(covariance) == pytest.approx(2 * (1 / 3) ** 2 / 2, rel=1e-5)


@pytest.mark.parametrize("epsilon", [1e-4, 0.01])
def test_vicreg_by_hand(epsilon):
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0, "variance_epsilon": epsilon}
    prediction, target = [[[0, 0], [1, 2]], [[2, 1], [1, 1]]], [[[0, 0]], [[0, 4]]]
    # A shared target keeps its own two rows: variances 0 and 8, covariance 0.
    own, shared = 1 - math.sqrt(2 / 3 + epsilon), (1 - math.sqrt(epsilon)) / 2
    invariance = ((0 + 0) + (1 + 4) + (4 + 9) + (1 + 9)) / 8
    covariance = 1 / 9
    found = float(_distance("vicreg", prediction, target, **weights))
    assert found == pytest.approx(2 * invariance + 3 * (own + shared) / 2 + 5 * covariance, rel=1e-5)
    settings = dataclasses.replace(OBJECTIVE, distance="vicreg", **weights)
    arrays = jnp.asarray(prediction, float), jnp.asarray(target, float)
    found = float(_compiled(settings, regularize_target=False)(*arrays, None))
    assert found == pytest.approx(2 * invariance + 3 * own + 5 * covariance, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_target_is_a_repeated_one_but_for_its_own_statistics(name):
    prediction = np.random.default_rng(0).normal(size=(3, 4, 5))
    shared = np.random.default_rng(1).normal(size=(3, 1, 5))
    changes = {"variance_weight": 0.0, "covariance_weight": 0.0}
    found = _distance(name, prediction, shared, **changes)
    repeated = _distance(name, prediction, np.repeat(shared, 4, 1), **changes)
    np.testing.assert_allclose(found, repeated, rtol=1e-6)


DEGENERATE = {
    "zeros": np.zeros((3, 2, 4)),
    "constant": np.full((3, 2, 4), 7.0),
    "one_row": np.arange(4.0).reshape(1, 1, 4),
    "huge": np.full((3, 2, 4), 1e15) * np.array([1, -1, 1, -1]),
    "tiny": np.full((3, 2, 4), 1e-30),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_on_degenerate_input(name, case):
    values = DEGENERATE[case]
    for target in (values, np.zeros_like(values)):
        loss, gradients = _value_and_gradients(name)(values, target, None)
        assert np.isfinite(loss)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("valid", [(True, False, False), (False, False, False)])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_with_one_video_or_none(name, valid):
    values = np.random.default_rng(0).normal(size=(3, 1, 4))
    values[1:] = [1e6, -1e6, 255, 0]  # videos are uint8: what is masked is never NaN
    target = np.random.default_rng(1).normal(size=(3, 1, 4))
    loss, (gradient, _) = _value_and_gradients(name)(values, target, np.array(valid))
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~np.array(valid)] == 0).all()
    if not any(valid) and name != "vicreg":
        assert float(loss) == 0.0


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_a_masked_video_is_not_there(name, shape):
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4)), rng.normal(size=shape)
    junk, junk_target = rng.normal(size=(1, 3, 4)) * 1e6, rng.normal(size=(1, *shape[1:])) * 1e6
    alone = _value_and_gradients(name)(prediction, target, None)
    padded = [np.concatenate(parts)[[0, 2, 1]] for parts in ((prediction, junk), (target, junk_target))]
    loss, (gradient, _) = jax.device_get(_value_and_gradients(name)(*padded, np.array([True, False, True])))
    np.testing.assert_allclose(loss, alone[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[[0, 2]], alone[1][0], rtol=1e-5, atol=1e-7)
    assert (gradient[1] == 0).all()


def test_computed_in_float32_whatever_comes_in():
    values = np.full((2, 2, 4), 300.0, jnp.bfloat16)
    for name in NAMES:
        settings = dataclasses.replace(OBJECTIVE, distance=name)
        loss = _compiled(settings)(values, np.zeros_like(values), None)
        assert loss.dtype == jnp.float32 and np.isfinite(loss)


def test_cosine_similarity_of_zero_is_zero():
    zero, one = jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3))
    assert float(distances.cosine_similarity(zero, one)[0, 0]) == 0.0
    assert float(distances.cosine_similarity(one, 5 * one)[0, 0]) == pytest.approx(1.0)


def test_masked_mean_by_hand():
    rows = jnp.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 6.0]])
    assert float(distances.masked_mean(rows, jnp.array([True, False, True]))) == 3.0
    assert float(distances.masked_mean(rows, jnp.zeros(3, bool))) == 0.0
