"""The runs of a sweep as the command line names them, each read as the process that trains it will read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from hvt_jax import settings as settings_lib
from hvt_jax.commands import config_file
from hvt_jax.settings import SettingsError, reader
from hvt_jax.tools import sweep_plan
from hvt_jax.tools.sweep_plan import Run, Sweep


def read_sweep(given: str, overrides: Mapping[str, Any], seeds: Sequence[int] | None) -> Sweep:
    """Return the sweep of a config file.

    Args:
      given: PATH or PATH:ARGUMENT.
      overrides: {dotted field: value} of all runs.
      seeds: instead of those of the file.

    Raises:
      SettingsError: in one line, if there is none, it cannot be used, or overrides change what is swept.
    """
    path = given.partition(":")[0]
    try:
        found = config_file.load_sweep(given)
    except config_file.ConfigFileError as error:
        raise SettingsError(str(error)) from None
    try:
        sweep = sweep_plan.read(found, reader.field_names(settings_lib.Settings), seeds)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    if "seed" in overrides:
        raise SettingsError("--config.seed is each run's own in a sweep; give --seeds")
    for setting in sweep.settings:
        for field in setting.fields:
            if field in overrides:
                raise SettingsError(f"--config.{field} is given, but {path} sweeps it; leave it out of one of them")
    return sweep


def read_config(run: Run, given: str, overrides: Mapping[str, Any]) -> ConfigDict:
    """Return the locked config of a run, from the arguments that its process gets.

    Raises:
      SettingsError: in one line with the run's name, if there is no such field, or its value cannot be used.
    """
    words = run.arguments(given, overrides)
    values = flags.FlagValues()
    argv = ["sweep", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    try:
        values(argv)
    except (Exception, flags.Error) as error:  # a config file is code: it may raise anything
        line = config_file.explain(words, values, error) or " ".join(str(error).split())
        raise SettingsError(f"{run.name}: {line}") from None
    config = values["config"].value
    try:
        for field, wanted in run.fields.items():
            _check_kind(field, wanted, config)
        settings_lib.read_settings(config)
    except SettingsError as error:
        raise SettingsError(f"{run.name}: {error}") from None
    return config


def _check_kind(field: str, wanted: Any, config: ConfigDict) -> None:
    """Refuse a value that a command line takes for another: '0.1' for 0.1, or 1 for True."""
    found = config
    for part in field.split("."):
        found = found[part]
    same = tuple(wanted) if isinstance(wanted, list) else wanted
    if found != same or isinstance(found, bool) != isinstance(wanted, bool):
        kind, needed = type(wanted).__name__, type(found).__name__
        raise SettingsError(f"config.{field} = {wanted!r} is a {kind}, but must be {needed}")
