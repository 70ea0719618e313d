"""Turn a nested mapping into nested frozen dataclasses, checking every name, type, choice and range."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from ml_collections import ConfigDict

_TOO_LARGE = 2**63  # no count is; far larger ones are no floats
_ALIKE = 0.7  # of two names; 1 = equal


class SettingsError(ValueError):
    """A config that cannot be used; the message names the field, the value and the remedy."""


class Range(NamedTuple):
    """Smallest and largest value of a number, or of every item of a tuple; both allowed, NaN and infinity never.

    `items` is how many a tuple has, if that is fixed; two are a lowest and a highest one.
    """

    low: float
    high: float = math.inf
    items: int | None = None


Count = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


def read(kind: Any, value: Any, field: str) -> Any:
    """Return `value` as an instance of `kind`; `field` is its dotted name in messages.

    `kind` is a dataclass, which may be `| None`, a `Literal` of choices, `tuple[element, ...]`, a plain type, or one of
    the last two `Annotated` with a `Range`. An int is taken where a float is meant, nothing else is converted.

    Raises:
      SettingsError: naming the first field that is unknown, missing, of a wrong type or value.
    """
    if typing.get_origin(kind) is Annotated:
        kind, limits = typing.get_args(kind)
        value = read(kind, value, field)
        _check_range(limits, value, field)
        return value
    if typing.get_origin(kind) is types.UnionType:
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _read_group(kind, value, field)
    origin = typing.get_origin(kind)
    if origin is Literal:
        return _read_choice(typing.get_args(kind), value, field)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise SettingsError(f"{field} = {value!r}, but must be a tuple")
        element = typing.get_args(kind)[0]
        return tuple(read(element, item, f"{field}[{index}]") for index, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _TOO_LARGE else (math.inf if value > 0 else -math.inf)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SettingsError(f"{field} = {value!r} is a {type(value).__name__}, but must be {_name(kind)}")
    return value


def _check_range(limits: Range, value: Any, field: str) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        is_finite = abs(number) < _TOO_LARGE if isinstance(number, int) else math.isfinite(number)
        if not limits.low <= number <= limits.high or not is_finite:
            low, high = (f"{limit:.10g}" for limit in limits[:2])
            words = f"at least {low}" if limits.high == math.inf else f"from {low} to {high}"
            raise SettingsError(f"{field} = {value}, but must be {words}" + ("" if is_finite else " and finite"))
    if limits.items not in (None, len(numbers)):
        raise SettingsError(f"{field} = {value} has {len(numbers)} values, but must have {limits.items}")
    if limits.items == 2 and numbers[0] > numbers[1]:
        raise SettingsError(f"{field} = {value}: the first value must not exceed the second")


def field_names(kind: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields of the dataclass `kind` and of the dataclasses in it."""
    found = []
    for name, child in typing.get_type_hints(kind).items():
        child = typing.get_args(child)[0] if typing.get_origin(child) is types.UnionType else child
        inner = dataclasses.is_dataclass(child)
        found += field_names(child, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def closest_field(name: str, known: Iterable[str]) -> str | None:
    """Return that of the dotted names `known` which a misspelt or misplaced `name` most likely means, or None."""

    def likeness(other: str) -> tuple[float, float]:
        # The last part counts most: `batch_size` for `train.batch_size` is the commonest slip but a misspelling.
        leaves = name.rpartition(".")[2], other.rpartition(".")[2]
        return tuple(difflib.SequenceMatcher(None, *pair).ratio() for pair in (leaves, (name, other)))

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= _ALIKE else None


def _read_choice(choices: tuple[Any, ...], value: Any, field: str) -> Any:
    if value not in choices:
        close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"{field} = {value!r}, but must be one of {', '.join(map(str, choices))}{hint}")
    return value


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) else str(kind)


def _read_group(kind: Any, value: Any, field: str) -> Any:
    if not isinstance(value, (ConfigDict, Mapping)):
        raise SettingsError(f"{field} = {value!r}, but must be a group of fields")
    names = typing.get_type_hints(kind, include_extras=True)
    for key in value:
        if key not in names:
            close = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {field}.{close[0]}?" if close else f"known: {', '.join(names)}"
            raise SettingsError(f"{field}.{key} is unknown; {hint}")
    missing = [name for name in names if name not in value]
    if missing:
        raise SettingsError(f"{field}.{missing[0]} is missing; start from configs/default.py")
    return kind(**{name: read(child, value[name], f"{field}.{name}") for name, child in names.items()})
