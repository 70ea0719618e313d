"""Command lines and config files with a mistake: one line that names it, and code 2; help is no mistake."""

import errno
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from hvt_jax.__main__ import COMMANDS
from hvt_jax.commands import cli
from hvt_jax.settings import SettingsError, read_settings

ROOT = pathlib.Path(__file__).parent.parent


def _parse(*words):
    """Parse `words` as a command does that takes --config and --workdir; return its flags."""
    values, argv = flags.FlagValues(), ["command", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert cli.parse_flags(argv, values) == ["command"]
    return values


def _refusal(capsys, *words):
    """Return the line that such a command answers `words` with."""
    with pytest.raises(SystemExit) as caught:
        _parse(*words)
    said = capsys.readouterr()
    assert caught.value.code == 2 and not said.out
    (line,) = said.err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train.bacth_size=4", "config.train.bacth_size = 4 is unknown; did you mean config.train.batch_size?"),
        ("train.bacth_size 4", "config.train.bacth_size = 4 is unknown; did you mean config.train.batch_size?"),
        ("batch_size=4", "config.batch_size = 4 is unknown; did you mean config.train.batch_size?"),
        (
            "optimiser.learning_rate=1",
            "config.optimiser.learning_rate = 1 is unknown; did you mean config.optimizer.*?",
        ),
        ("nonsense_xyz=3", "config.nonsense_xyz = 3 is unknown; the config has alarms, .*, vicreg"),
        ("train.nonsense=3", "config.train.nonsense = 3 is unknown; config.train has batch_size, .*"),
        ("train.batch_size.x=3", "config.train.batch_size.x = 3 is unknown; did you mean config.train.batch_size?"),
        ("train=3", "config.train = 3, but it is a group of fields; set one of them"),
        ("train.batch_size=many", "config.train.batch_size = many, but must be int, such as 64"),
        ("train.fsdp=perhaps", "config.train.fsdp = perhaps, but must be bool, such as False"),
    ],
)
def test_overrides(capsys, words, line):
    said = _refusal(capsys, "--config=configs/digits.py", *f"--config.{words}".split())
    assert re.fullmatch(line.replace("?", r"\?"), said), said


_START = "from configs import default\ndef get_config():\n    config = default.get_config()\n    "


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "config.train.bacth_size = 4",
            ", line 4: config.train.bacth_size = 4 is unknown; did you mean config.train.b",
        ),
        ("config.data.update(\n  heigth=3)", ", line 4: config.data.heigth = 3 is unknown; did you mean config.data.h"),
        (
            "data = config.data\n    data.heigth = 3",
            ", line 5: config.heigth = 3 is unknown; did you mean config.data.h",
        ),
        ("config.nonsense_xyz = 4", ", line 4: config.nonsense_xyz = 4 is unknown; the config has seed, method, data"),
        ("config.train.batch_size = '4'", ", line 4: config.train.batch_size = '4', but must be int"),
        ("raise ValueError('two\\nlines')", ", line 4: two lines"),
        ("config.train.num_epochs /= 0", ", line 4: ZeroDivisionError: "),
        ("open('nowhere.txt')", ", line 4: [Errno 2] No such file or directory: 'nowhere.txt'"),
        ("pass", ": get_config() returns nothing; end it with `return config`"),
        ("return config.to_dict()", ": get_config() returns a dict, not a ConfigDict; start from configs/default.py"),
        (None, ": has no function get_config(); start from configs/default.py"),
        ("import configz", ", line 4: No module named 'configz'; install it, or run the command in the folder"),
        ("a b", ", line 4: invalid syntax"),
    ],
)
@pytest.mark.parametrize("override", [(), ("--config.train.batch_size=4",)], ids=["plain", "override"])
def test_config_files(capsys, tmp_path, code, line, override):
    path = tmp_path / "mine.py"
    path.write_text(_START + code + "\n" if code else "x = 1\n")
    said = _refusal(capsys, f"--config={path}", *override)
    assert said.startswith(f"{path}{line}"), said


def test_an_empty_list_is_no_order_to_do_nothing(capsys):
    values = flags.FlagValues()
    flags.DEFINE_list("protocol", "knn", "", flag_values=values)
    with pytest.raises(SystemExit):
        cli.parse_flags(["evaluate", "--protocol="], values)
    assert capsys.readouterr().err == "error: --protocol is empty; give it a value or leave it out\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--config=", "--config is empty; e.g. --config=configs/digits.py"),
        ("--config=configs", "configs: is a folder; name a config file in it"),
        ("--config=configs/digit.py", "configs/digit.py: no such config file; did you mean configs/digits.py?"),
        ("--config nowhere/x.py", "nowhere/x.py: no such config file"),
        ("--config=configs/digits.py:fast", "configs/digits.py:fast is unknown; use configs/digits.py or configs/dig"),
        ("--config=configs/default.py:smoke", "configs/default.py: get_config() takes no argument, so nothing may fol"),
        ("--workdir=", "--workdir is empty; give it a value or leave it out"),  # as from an unset variable
        ("--wrkdir=x", "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    ],
)
def test_command_lines(capsys, words, line):
    assert _refusal(capsys, *words.split()).startswith(line)


def test_what_is_no_mistake():
    overrides = ["--config.train.fsdp", "--config.data.manifest=", "--noconfig.objective.side", "--config.seed", "3"]
    config = _parse("--config=configs/digits.py:smoke", *overrides)["config"].value  # a field may be empty, a flag not
    assert (config.train.fsdp, config.data.manifest, config.objective.side, config.seed) == (True, "", False, 3)
    assert _parse("--workdir=x")["config"].value is None


def test_the_home_folder_is_found_where_shells_leave_it(monkeypatch):
    """They put it in for `--workdir ~/x` alone."""
    monkeypatch.setenv("HOME", "/somewhere")
    values = _parse(
        "--config=configs/folder.py", "--workdir=~/runs/x", "--config.data.root=~", "--config.data.label=a~b"
    )
    assert values["workdir"].value == "/somewhere/runs/x"
    assert (values["config"].value.data.root, values["config"].value.data.label) == ("/somewhere", "a~b")
    config = values["config"].value
    config.data.update(root="~/videos", manifest="none", storage="frames", storage_root="~/frames")
    data = read_settings(config).data
    assert (data.root, data.storage_root, data.manifest) == ("/somewhere/videos", "/somewhere/frames", "none")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_no_mistake(command):
    program = "hvt_jax.main" if command == "main" else f"hvt_jax {command}"
    run = [sys.executable, "-m", *program.split(), "-h" if command == "main" else "--help"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"python -m hvt_jax{'.' if command == 'main' else ' '}{command} --" in done.stdout
        and "\nflags:\n" in done.stdout
    )


def _raise(error):
    raise error


def test_mistakes_of_users_are_lines_and_mistakes_of_programs_are_tracebacks(capsys):
    assert cli.run(lambda: 3) == 3
    cases = {
        "config.x is bad": SettingsError("config.x is bad"),
        "runs/a cannot be used: No space left on device; free some space there, or name another place": OSError(
            errno.ENOSPC, "No space left on device"
        ),
        "b cannot be used: Permission denied; make it writable, or name another place": PermissionError(
            errno.EACCES, "Permission denied", "b"
        ),
        "f cannot be used: File exists; name another place": FileExistsError(errno.EEXIST, "File exists", "f"),
        "d cannot be used: Is a directory; name another place": IsADirectoryError(errno.EISDIR, "Is a directory", "d"),
    }
    for line, error in cases.items():
        assert cli.run(lambda error=error: _raise(error), output="runs/a") == 2
        assert capsys.readouterr().err == f"error: {line}\n"
    assert cli.run(lambda: _raise(KeyboardInterrupt()), resumed="to begin anew") == 130
    assert capsys.readouterr().err == "error: interrupted; run the same command again to begin anew\n"
    for error in (FileNotFoundError(errno.ENOENT, "No such file", "c"), OSError(errno.EBADF, "Bad"), ValueError("x")):
        with pytest.raises(type(error)):
            cli.run(lambda error=error: _raise(error))
