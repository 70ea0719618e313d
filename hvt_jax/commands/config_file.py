"""What is wrong with a config file, or with an override of it, in one line.

`config_flags` loads the file and applies the overrides; its messages name neither the file nor the whole name of a
field. So after a failure the file is loaded here once more, step by step.
"""

import ast
import difflib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import traceback
import types
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from hvt_jax import settings
from hvt_jax.settings import reader

_EXAMPLE = "start from configs/default.py as configs/digits.py does"
_CONFIG_FLAG = "config object"  # what flags of `DEFINE_config_file` call themselves; import_original has another kind


class ConfigFileError(Exception):
    """A config file that cannot be used; the message names it."""


def explain(words: list[str], values: flags.FlagValues, error: BaseException | None = None) -> str:
    """Return what is wrong with the config that a command line names, or an empty string.

    Args:
      words: the command line.
      values: the flags it was parsed by.
      error: what the parsing ended with, if it failed.
    """
    if "config" not in values or values["config"].flag_type() != _CONFIG_FLAG:
        return ""
    given = _value_of("config", words)
    if given is None or (error is None and isinstance(values["config"].value, ConfigDict)):
        return ""
    try:
        config = load(given)
    except ConfigFileError as found:
        return str(found)
    fields = dict(_flatten(config, ""))
    return _unknown_override(words, fields) or _wrong_value(str(error), fields)


def load(given: str) -> ConfigDict:
    """Return the config that `PATH` or `PATH:ARGUMENT` names.

    Raises:
      ConfigFileError: in one line, with the file and where it can be told the row.
    """
    path, colon, argument = given.partition(":")
    module = _load_module(path)
    arguments = [argument] if colon else []
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigFileError(f"{path}: has no function get_config(); {_EXAMPLE}")
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        wrong = f"takes no argument, so nothing may follow the colon in {given}" if colon else "needs an argument"
        raise ConfigFileError(f"{path}: get_config() {wrong}" + ("" if colon else f": {path}:ARGUMENT")) from None
    try:
        config = get_config(*arguments)
    except Exception as error:
        raise ConfigFileError(_describe(path, error)) from error
    if config is None:
        raise ConfigFileError(f"{path}: get_config() returns nothing; end it with `return config`")
    if not isinstance(config, ConfigDict):
        raise ConfigFileError(f"{path}: get_config() returns a {type(config).__name__}, not a ConfigDict; {_EXAMPLE}")
    return config


def load_sweep(given: str) -> object:
    """Return what the function `get_sweep` of a config file returns, which may take the file's argument, too.

    Raises:
      ConfigFileError: in one line, with the file and where it can be told the row.
    """
    path, colon, argument = given.partition(":")
    get_sweep = getattr(_load_module(path), "get_sweep", None)
    if not callable(get_sweep):
        raise ConfigFileError(f"{path}: has no function get_sweep(); see configs/sweep_digits.py for one")
    takes_argument = colon and inspect.signature(get_sweep).parameters
    try:
        return get_sweep(argument) if takes_argument else get_sweep()
    except Exception as error:
        raise ConfigFileError(_describe(path, error)) from error


def _load_module(path: str) -> types.ModuleType:
    if not os.path.isfile(path):
        raise ConfigFileError(_why_no_file(path))
    try:
        loader = importlib.machinery.SourceFileLoader("config_file", path)
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("config_file", loader))
        loader.exec_module(module)
    except Exception as error:
        raise ConfigFileError(_describe(path, error)) from error
    return module


def _why_no_file(path: str) -> str:
    if not path:
        return "--config is empty; e.g. --config=configs/digits.py"
    if os.path.isdir(path):
        return f"{path}: is a folder; name a config file in it"
    folder = os.path.dirname(path)
    there = [os.path.join(folder, name) for name in os.listdir(folder or ".")] if os.path.isdir(folder or ".") else []
    close = difflib.get_close_matches(path, [name for name in there if name.endswith(".py")], 1)
    return f"{path}: no such config file" + (f"; did you mean {close[0]}?" if close else "")


def _describe(path: str, error: Exception) -> str:
    """Return what went wrong in the code of a config file, with its row."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}, line {error.lineno}: {error.msg}"
    rows = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{path}, line {rows[-1]}" if rows else path
    inner = error
    while isinstance(inner, LookupError | AttributeError) and inner.args and isinstance(inner.args[0], Exception):
        inner = inner.args[0]  # ml_collections packs one into the other, and their texts are quoted each time
    text = " ".join(str(inner.args[0] if isinstance(inner, KeyError) and inner.args else inner).split())
    if found := re.match(r'Key "(.+?)" does not exist and cannot be added', text):
        name, value = _assignment(path, rows, found[1])
        return f"{where}: {_unknown(name, value, reader.field_names(settings.Settings))}"
    if found := re.match(r"Could not override field '(.+?)' .* cannot be casted to type <class '(\w+)'>", text):
        name, value = _assignment(path, rows, found[1])
        return f"{where}: config.{name} = {value}, but must be {found[2]}"
    if isinstance(error, ImportError):
        return f"{where}: {text}; install it, or run the command in the folder that holds it"
    if text.startswith(path):
        return text
    return f"{where}: {'' if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: '}{text}"


def _assignment(path: str, rows: list[int], key: str) -> tuple[str, str]:
    """Return dotted name and value, as source, of what sets the field `key` in the last of `rows` of a file."""
    row = rows[-1] if rows else 0
    with open(path, encoding="utf-8") as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    for node in nodes:
        if not getattr(node, "lineno", row + 1) <= row <= getattr(node, "end_lineno", 0):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and target.attr == key:
                return _without_variable(ast.unparse(target)), ast.unparse(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for keyword in node.keywords:
                if keyword.arg == key:
                    return _without_variable(f"{ast.unparse(node.func.value)}.{key}"), ast.unparse(keyword.value)
    return key, ""


def _without_variable(name: str) -> str:
    return name.partition(".")[2] or name


def _unknown_override(words: list[str], fields: dict[str, object]) -> str:
    """Return a line on the first override of a field that the config has not."""
    groups = {name.rsplit(".", depth)[0] for name in fields for depth in range(1, name.count(".") + 1)}
    for place, word in enumerate(words):
        match = re.match(r"--?(no)?config\.([^=]+)(?:=(.*))?$", word, re.DOTALL)
        if not match or match[2] in fields or match[2] in groups:
            continue
        value = match[3] if match[3] is not None else next(iter(words[place + 1 :]), "")
        return _unknown(match[2], "False" if match[1] else value, list(fields))
    return ""


def _unknown(name: str, value: str, known: list[str]) -> str:
    """Return that there is no field `name`, and what was most likely meant."""
    shown = f"config.{name} = {value}" if value else f"config.{name}"
    group = name.rpartition(".")[0]
    if meant := group if group in known else reader.closest_field(name, known):
        return f"{shown} is unknown; did you mean config.{meant}?"
    beside = [field for field in known if field.startswith(f"{group}.")] if group else []
    names = dict.fromkeys(field.removeprefix(f"{group}." if beside else "").split(".")[0] for field in beside or known)
    return f"{shown} is unknown; {f'config.{group}' if beside else 'the config'} has {', '.join(names)}"


def _wrong_value(message: str, fields: dict[str, object]) -> str:
    """Return a line on an override whose value is of another type, from the message of its flag."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL)
    if not match:
        return ""
    if match[1] not in fields:
        return f"config.{match[1]} = {match[2]}, but it is a group of fields; set one of them"
    value = fields[match[1]]
    return f"config.{match[1]} = {match[2]}, but must be {type(value).__name__}, such as {value!r}"


def _flatten(config: ConfigDict, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value_of(name: str, words: list[str]) -> str | None:
    """Return the value of the last `--name=value` or `--name value`, None if there is none."""
    found = None
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            found = value if equals else next(iter(words[place + 1 :]), "")
    return found
