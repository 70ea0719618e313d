"""What a sweep is: settings with readable names, each for several seeds, and a folder for every run.

A config file says it beside its config, in `get_sweep()`, as a dict of

  grid      {dotted field: values}: all combinations, the last field changes fastest. Values are a list, or
            {name: value} where they read badly, such as long tuples.
  settings  instead of a grid: a list of {dotted field: value}, or {name: {dotted field: value}}.
  seeds     of each setting; 0, 1 and 2 if it is left out.
  names     {dotted field: short name}, where the field's own is too long; "" leaves the value alone.

As in the original a name has a part for every field that is swept, in their order. Different: the parts are whole
assignments (`learning_rate=0.001,distance=mse`, there `lr-0.001_LFn-MSE`), so that no letter of a value has to be
changed: there `soft_max` and `softMax` are one name. A switch reads True or False, there 1 or 0, as the number does.
Lists of levels are shown as they are, there as `B` or `noB`. Two settings of one name are refused: they would be
one folder.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hvt_jax.settings import SettingsError

Fields = Mapping[str, Any]  # {dotted field: value}
SEEDS = (0, 1, 2)
BASE = "base"  # the name of the setting that changes nothing
_PARTS = ("grid", "settings", "seeds", "names")
_LONGEST_NAME = 200  # letters; file systems take 255 bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """One point of a sweep: its name, which is that of its folder, and what it changes."""

    name: str
    fields: Fields


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All settings in their order, and the seeds of each."""

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]

    def runs(self, workdir: pathlib.Path) -> "list[Run]":
        """Return the runs in `workdir`, seed by seed, so that an early look compares all settings."""
        return [Run(setting, seed, workdir) for seed in self.seeds for setting in self.settings]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One setting with one seed, somewhere under `workdir`."""

    setting: Setting
    seed: int
    workdir: pathlib.Path

    @property
    def name(self) -> str:
        """Return `learning_rate=0.001/seed0`."""
        return f"{self.setting.name}/seed{self.seed}"

    @property
    def folder(self) -> pathlib.Path:
        """Return the run folder."""
        return self.workdir / self.setting.name / f"seed{self.seed}"

    @property
    def log(self) -> pathlib.Path:
        """Return the file of what the run prints."""
        return self.folder.with_suffix(".log")

    @property
    def fields(self) -> dict[str, Any]:
        """Return what it sets: the fields of its setting, and the seed."""
        return {**self.setting.fields, "seed": self.seed}

    def arguments(self, config: str, overrides: Fields) -> list[str]:
        """Return the arguments that make `python -m hvt_jax.main` this run.

        Args:
          config: PATH or PATH:ARGUMENT of the config file.
          overrides: of all runs.
        """
        changed = {**overrides, **self.fields}
        assignments = [f"--config.{field}={_argument(value)}" for field, value in changed.items()]
        return [f"--config={config}", *assignments, f"--workdir={self.folder}"]


def read(sweep: Any, known: Collection[str], seeds: Sequence[int] | None = None) -> Sweep:
    """Return the sweep that a config file's `get_sweep()` returned.

    Args:
      sweep: see the top of this file.
      known: dotted names of all fields of a config, for short names that leave no doubt.
      seeds: instead of those in `sweep`.

    Raises:
      SettingsError: in one line, if it is none, or two of its settings would share a folder.
    """
    if not isinstance(sweep, Mapping):
        raise SettingsError(f"get_sweep() returns a {type(sweep).__name__}, but must return a dict with a grid")
    if unknown := [key for key in sweep if key not in _PARTS]:
        raise SettingsError(f"get_sweep() has {unknown[0]!r}, but only {', '.join(_PARTS)} are known")
    if ("grid" in sweep) == ("settings" in sweep):
        raise SettingsError("get_sweep() must have one of grid and settings")
    names = sweep.get("names", {})
    if not isinstance(names, Mapping):
        raise SettingsError(f"the sweep's names are {names!r}, but must be {{field: short name}}")
    points = _grid(sweep["grid"], names, known) if "grid" in sweep else _listed(sweep["settings"], names, known)
    settings = tuple(Setting(name, fields) for name, fields in points)
    swept = dict.fromkeys(field for setting in settings for field in setting.fields)
    if "seed" in swept:
        raise SettingsError("get_sweep() sweeps seed; give it as seeds, over which means are taken")
    if unused := [field for field in names if field not in swept]:
        raise SettingsError(f"get_sweep() names {unused[0]}, which it does not sweep")
    _check_names(settings)
    return Sweep(settings, read_seeds(sweep.get("seeds", SEEDS) if seeds is None else seeds))


def read_seeds(seeds: Any) -> tuple[int, ...]:
    """Return the seeds as a tuple.

    Raises:
      SettingsError: if they are no different whole numbers from 0 on.
    """
    is_list = isinstance(seeds, Sequence | range) and not isinstance(seeds, str)
    if not is_list or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise SettingsError(f"seeds = {seeds!r}, but must be a list of whole numbers, such as {SEEDS}")
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"seeds = {seeds!r}, but the same seed twice is one run")
    return tuple(seeds)


def setting_name(fields: Fields, names: Mapping[str, str]) -> str:
    """Return `learning_rate=0.001,distance=mse`, which can be the name of a folder.

    Args:
      fields: what is set, in the order of the name.
      names: how each field is called; "" leaves its value alone.
    """
    parts = [f"{names[field]}={_shown(value)}" if names[field] else _shown(value) for field, value in fields.items()]
    return _for_folders(",".join(parts)) or BASE


def short_name(field: str, known: Collection[str]) -> str:
    """Return as many last parts of a dotted field as no other of `known` ends in: `optimizer.b1` is `b1`."""
    parts = field.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[-count:])
        if not any(other != field and f".{other}".endswith(f".{name}") for other in known):
            return name
    return field


def _grid(grid: Any, names: Mapping[str, str], known: Collection[str]) -> Iterator[tuple[str, Fields]]:
    """Yield name and fields of all combinations."""
    if not isinstance(grid, Mapping) or not grid:
        raise SettingsError(f"the sweep's grid is {grid!r}, but must be {{field: values}}")
    choices = {}
    for field, values in grid.items():
        values = values.tolist() if hasattr(values, "tolist") else values  # numpy's
        if isinstance(values, str) or not isinstance(values, Sequence | Mapping) or not values:
            raise SettingsError(f"the sweep's grid has {field} = {values!r}, but must have a list of values")
        called = values.items() if isinstance(values, Mapping) else ((value, value) for value in values)
        choices[field] = list(called)
    called = {field: names.get(field, short_name(field, known)) for field in grid}
    for chosen in itertools.product(*choices.values()):
        shown = dict(zip(choices, (name for name, _ in chosen), strict=True))
        yield setting_name(shown, called), dict(zip(choices, (value for _, value in chosen), strict=True))


def _listed(settings: Any, names: Mapping[str, str], known: Collection[str]) -> Iterator[tuple[str, Fields]]:
    """Yield name and fields of settings that are given one by one."""
    is_named = isinstance(settings, Mapping)
    if isinstance(settings, str) or not isinstance(settings, Sequence | Mapping) or not settings:
        raise SettingsError(f"the sweep's settings are {settings!r}, but must be a list of {{field: value}}")
    for name, fields in settings.items() if is_named else ((None, fields) for fields in settings):
        if not isinstance(fields, Mapping):
            raise SettingsError(f"the sweep's settings have {fields!r}, but must have a dict of {{field: value}} there")
        called = {field: names.get(field, short_name(field, known)) for field in fields}
        yield _for_folders(str(name)) if is_named else setting_name(fields, called), dict(fields)


def _check_names(settings: Sequence[Setting]) -> None:
    before: dict[str, Setting] = {}
    for setting in settings:
        if not setting.name or len(setting.name) > _LONGEST_NAME:
            raise SettingsError(
                f"a setting's name has {len(setting.name)} letters, but must have 1 to {_LONGEST_NAME}; give its "
                f"fields short ones in the sweep's names: {setting.name}"
            )
        # Some file systems make no difference between small and capital letters.
        if other := before.get(setting.name.casefold()):
            raise SettingsError(
                f"two settings would share the folder {setting.name}: {other.fields} and {setting.fields}; name values "
                "or settings yourself, by a dict instead of a list"
            )
        before[setting.name.casefold()] = setting


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_shown, value)) or "none"
    return _argument(value)


def _argument(value: Any) -> str:
    """Return a value as it stands on a command line."""
    if hasattr(value, "item"):  # numpy's
        value = value.item()
    if isinstance(value, list | tuple):
        return repr(tuple(value))
    return value if isinstance(value, str) else repr(value)


def _for_folders(name: str) -> str:
    """Return a name with letters only that folders, shells and addresses take as they are."""
    name = re.sub(r"[^\w.,=+-]", "_", name, flags=re.ASCII)
    return re.sub(r"^[.-]", "_", name)
