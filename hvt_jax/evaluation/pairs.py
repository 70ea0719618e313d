"""Which classes are each other reversed in time, from `evaluation.reversed_pairs`."""

import difflib
from collections.abc import Mapping

import numpy as np

from hvt_jax.settings import SettingsError

_FIELD = "evaluation.reversed_pairs"


def find_partners(pairs: tuple[str, ...], label_names: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Return int [classes] of every label set that has such pairs: a class's partner, -1 without one.

    Args:
      pairs: such as "Right/Left"; a name may have a slash in it.
      label_names: class names by label set.

    Raises:
      SettingsError: for a pair that no label set has, naming what is unknown and the nearest name, or for a class
        that is in two pairs.
    """
    partners: dict[str, np.ndarray] = {}
    for pair in pairs:
        found = False
        for label_set, names in label_names.items():
            for one, other in _splits(pair):
                if one in names and other in names and one != other:
                    table = partners.setdefault(label_set, np.full(len(names), -1))
                    _join(table, names.index(one), names.index(other), names)
                    found = True
        if not found:
            raise SettingsError(f"{_FIELD} has {pair!r}, but {_what_is_wrong(pair, label_names)}")
    return partners


def _splits(pair: str) -> list[tuple[str, str]]:
    return [(pair[:place].strip(), pair[place + 1 :].strip()) for place, sign in enumerate(pair) if sign == "/"]


def _join(table: np.ndarray, one: int, other: int, names: tuple[str, ...]) -> None:
    for place, partner in ((one, other), (other, one)):
        if table[place] not in (-1, partner):
            raise SettingsError(
                f"{_FIELD} pairs {names[place]!r} with {names[table[place]]!r} and {names[partner]!r}; keep one of them"
            )
        table[place] = partner


def _what_is_wrong(pair: str, label_names: Mapping[str, tuple[str, ...]]) -> str:
    splits = _splits(pair)
    if not splits:
        return "a pair is two class names with a / between, such as 'Right/Left'"
    known = list(dict.fromkeys(name for names in label_names.values() for name in names))
    one, other = splits[0]
    if one == other:
        return "a class is not its own reverse"
    for name in (one, other):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.0)
            sets = ", ".join(label_names)
            return f"no label set ({sets}) has a class {name!r}; the nearest is {near[0] if near else 'none'!r}"
    return f"no label set has both; there are {', '.join(label_names)}"
