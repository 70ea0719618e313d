"""Pairs of classes that are each other reversed in time."""

import pytest

from hvt_jax.evaluation import pairs
from hvt_jax.settings import SettingsError

NAMES = {"motion": ("Up", "Left", "Down", "Right"), "digit": ("0", "1")}


def test_pairs_are_found_in_their_label_set():
    found = pairs.find_partners(("Left/Right", "Down/Up"), NAMES)
    assert {name: table.tolist() for name, table in found.items()} == {"motion": [2, 3, 0, 1]}
    assert pairs.find_partners(("Left / Right",), NAMES)["motion"].tolist() == [-1, 3, -1, 1]
    assert pairs.find_partners((), NAMES) == {}


def test_names_may_have_a_slash_in_them():
    names = {"class": ("open/close", "close/open")}
    assert pairs.find_partners(("open/close/close/open",), names)["class"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("Left/Rigth",), "no label set .motion, digit. has a class 'Rigth'; the nearest is 'Right'"),
        (("Left",), "a pair is two class names with a / between"),
        (("Left/Left",), "not its own reverse"),
        (("Left/0",), "no label set has both; there are motion, digit"),
        (("Left/Right", "Left/Up"), "pairs 'Left' with 'Right' and 'Up'"),
    ],
)
def test_mistakes_are_named(given, words):
    with pytest.raises(SettingsError, match=f"evaluation.reversed_pairs .*{words}"):
        pairs.find_partners(given, NAMES)
