"""What the numbers mean, in words."""

import math

import pytest

from hvt_jax.evaluation import verdict

BEFORE = {"untrained_top1": 38.0, "standard_error": 2.5, "untrained_standard_error": 2.5, "evaluated_step": 50}


def protocols(**top1):
    """Errors of 2.5 each: of the difference 3.54, so that the noise is 7.07."""
    return {protocol: {"top1": value, "chance": 12.5, **BEFORE} for protocol, value in top1.items()}


@pytest.mark.parametrize(
    ("top1", "gain"), [(45.1, 1), (45.0, 0), (38.0, 0), (31.0, 0), (30.9, -1), (math.nan, None), (None, None)]
)
def test_a_gain_is_more_than_two_standard_errors_of_the_difference(top1, gain):
    assert verdict.gain(protocols(mlp=top1)["mlp"]) == gain


@pytest.mark.parametrize(
    ("top1", "words"),
    [
        ({"knn": 99.0, "linear": 38.0, "mlp": 38.0}, "better for neighbours only"),
        ({"knn": 99.0, "linear": 20.0, "mlp": 38.0}, "worse than untrained, better for neighbours only"),
        ({"knn": 38.0, "linear": 50.0, "mlp": 38.0}, "better"),
        ({"knn": 38.0, "linear": 38.0, "mlp": 50.0}, "better"),
        ({"knn": 20.0, "linear": 38.0, "mlp": 50.0}, "better, but worse for neighbours"),
        ({"knn": 38.0, "linear": 20.0, "mlp": 50.0}, "better by the MLP probe, worse by the linear probe"),
        ({"knn": 38.0, "linear": 38.0, "mlp": 38.0}, "no better than untrained"),
        ({"knn": 99.0}, "better for neighbours only"),
        ({"linear": math.nan}, "not evaluated"),
        ({}, "not evaluated"),
    ],
)
def test_better_needs_a_probe(top1, words):
    assert verdict.verdict(protocols(**top1)) == words


def test_nothing_is_said_before_training_or_without_an_error():
    assert verdict.verdict({"mlp": protocols(mlp=60.0)["mlp"] | {"evaluated_step": 0}}) == "not trained yet"
    assert verdict.verdict({"mlp": protocols(mlp=60.0)["mlp"] | {"untrained_standard_error": None}}) == "not evaluated"


def test_sentence_in_plain_words():
    found = protocols(knn=45.1, mlp=52.0)
    found["mlp"] |= {"within_pairs": 80.0, "untrained_within_pairs": 50.3, "supervised_top1": 99.9}
    assert verdict.sentence("clip", "motion", found) == (
        "clip: motion kNN 45.1 (38.0), MLP 52.0 (38.0 / 99.9), pairs 80.0 (50.3) %; chance 12.5: better"
    )
    assert verdict.sentence("clip", "digit", {"knn": {"top1": 12.0}}) == (
        "clip: digit kNN 12.0 (?) %; chance ?: not evaluated"
    )


def test_ratios_say_where_there_is_none():
    edges = {"frame->clip/up": {"mean_ratio": 0.713, "copy_ratio": None}, "a": {"mean_ratio": 1.0, "copy_ratio": 0.5}}
    assert verdict.ratios(edges) == "frame->clip/up 0.71 / -, a 1.00 / 0.50"
