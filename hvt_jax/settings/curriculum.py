"""The config of a curriculum: stages over a common base, each read as a whole config before the first one trains."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from hvt_jax.settings import Settings, SettingsError, read_settings, reader

HandOver = Literal["best", "last"]
Grow = Literal["rows", "interpolate"]

_GROUPS = ("base", "stages")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_]*"  # of a stage: a folder and a field are called so


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One run of a curriculum.

    Attributes:
      number: from 1.
      name: in the config.
      config: of the whole run, locked.
      settings: the same, read.
    """

    number: int
    name: str
    config: ConfigDict
    settings: Settings

    @property
    def folder(self) -> str:
        """Name of its run folder, such as `2_short`."""
        return f"{self.number}_{self.name}"


@dataclasses.dataclass(frozen=True, eq=False)
class Curriculum:
    """Stages, the first one first.

    Attributes:
      stages: each begins with what the one before has learned.
      hand_over: which checkpoint of a stage the next one begins with.
      grow: how tables of positions and codes get another length, see `interop.grow`.
    """

    stages: tuple[Stage, ...]
    hand_over: HandOver
    grow: Grow


@dataclasses.dataclass(frozen=True)
class _Fields:
    order: tuple[str, ...]
    hand_over: HandOver
    grow: Grow


def read_curriculum(config: ConfigDict) -> Curriculum:
    """Return the stages of `config`.

    Args:
      config: `base`, a whole config; `stages`, by name what differs from it; `order`, the names of those to run;
        `hand_over` and `grow`. `model.initial_weights` of the base is for the first stage.

    Raises:
      SettingsError: naming the stage and the first field that is unknown, missing, of a wrong type or value, or
        sizes that are impossible.
    """
    names = [field.name for field in dataclasses.fields(_Fields)]
    for name in (*_GROUPS, *names):
        if name not in config:
            raise SettingsError(
                f"config.{name} is missing, so this is no curriculum, which has {', '.join((*_GROUPS, *names))}; "
                "see configs/curriculum_digits.py"
            )
    if unknown := sorted(set(config) - {*_GROUPS, *names}):
        raise SettingsError(f"config.{unknown[0]} is unknown; a curriculum has {', '.join((*_GROUPS, *names))}")
    fields = reader.read(_Fields, {name: config[name] for name in names}, "config")
    for group in _GROUPS:
        if not isinstance(config[group], ConfigDict):
            raise SettingsError(f"config.{group} = {config[group]!r}, but must be a group of fields")
    _check_order(fields.order, list(config.stages))
    base, stages = config.base.to_dict(), []
    for number, name in enumerate(fields.order, start=1):
        own = config.stages[name]
        with of_stage(name):
            if not isinstance(own, ConfigDict):
                raise SettingsError(f"config.stages.{name} = {own!r}, but must be a group of fields")
            whole = _combine(base, own.to_dict(), number)
            stages.append(Stage(number, name, whole, read_settings(whole)))
    return Curriculum(tuple(stages), fields.hand_over, fields.grow)


@contextlib.contextmanager
def of_stage(name: str) -> Iterator[None]:
    """Say in every SettingsError of the body which stage it is about."""
    try:
        yield
    except SettingsError as error:
        raise type(error)(f"stage {name}: {error}") from error


def _check_order(order: tuple[str, ...], known: list[str]) -> None:
    if not order:
        raise SettingsError(f"config.order = () runs nothing; there are {', '.join(known) or 'no stages'}")
    for name in order:
        if name not in known:
            raise SettingsError(f"config.order names {name!r}, but config.stages has {', '.join(known) or 'none'}")
        if order.count(name) > 1:
            raise SettingsError(f"config.order names {name!r} twice; a stage is one run")
        if not re.fullmatch(_NAME, name):
            raise SettingsError(f"stage {name!r}: a folder is called so; use letters, digits and _")


def _combine(base: dict[str, Any], own: dict[str, Any], number: int) -> ConfigDict:
    """Return the whole config of a stage."""
    fields = _merged(base, own)
    model = fields.get("model")
    if number > 1 and isinstance(model, dict):
        if (own.get("model") or {}).get("initial_weights"):
            raise SettingsError(
                f"config.model.initial_weights = {model['initial_weights']!r}, but it begins with the weights of the "
                "stage before; leave it out"
            )
        model["initial_weights"] = ""
    return ConfigDict(fields).lock()


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the fields of `own`, group by group; both stay as they are."""
    merged = {key: _merged(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in own.items():
        if isinstance(value, Mapping):
            value = _merged(base[key] if isinstance(base.get(key), Mapping) else {}, value)
        merged[key] = value
    return merged
