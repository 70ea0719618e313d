"""Means over seeds and their intervals, against numbers computed by hand."""

import math

import pytest

from hvt_jax.evaluation.intervals import half_width, mean_and_interval


def test_three_values():
    # Deviations -2, -1, 3: variance 14 / 2 = 7, over 3 seeds; Student's t of 2 degrees of freedom is 4.30.
    assert half_width([8.0, 9.0, 13.0]) == pytest.approx(4.30 * math.sqrt(7 / 3))
    assert mean_and_interval([8.0, 9.0, 13.0]) == "10.0 ± 6.6"
    assert mean_and_interval([8.0, 9.0, 13.0], digits=2) == "10.00 ± 6.57"


def test_one_value_has_no_interval():
    assert math.isnan(half_width([3.0])) and mean_and_interval([3.0]) == "3.0"


def test_many_values_come_near_the_normal_distribution():
    assert half_width([0.0, 1.0] * 500) == pytest.approx(1.96 * 0.5 / math.sqrt(1000), rel=0.01)


@pytest.mark.parametrize(("count", "quantile"), [(11, 2.228), (21, 2.086), (31, 2.042)])
def test_beyond_the_table_the_quantile_is_near(count, quantile):
    values = [float(number) for number in range(count)]
    assert half_width(values) * math.sqrt(count) / math.sqrt(count * (count + 1) / 12) == pytest.approx(
        quantile, rel=0.02
    )
