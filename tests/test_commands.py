"""`python -m hvt_jax`: the list of commands, and each by its name."""

import subprocess
import sys

import pytest

from hvt_jax import __main__


def _run(*words):
    return subprocess.run([sys.executable, "-m", "hvt_jax", *words], capture_output=True, text=True, timeout=120)


def test_without_a_command_they_are_listed_with_a_line_each(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hvt_jax"])
    assert __main__.main() == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(__main__.COMMANDS)
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize("words", [["scan", "--help"], ["scna"], ["--config=x"], ["scan"]], ids=" ".join)
def test_a_command_by_its_name(words):
    done = _run(*words)
    if words == ["scna"]:
        assert (done.returncode, done.stderr) == (2, "error: 'scna' is no command; there are " + _all() + "\n")
    elif words == ["--config=x"]:
        assert done.returncode == 2 and "is no command" in done.stderr
    elif words == ["scan"]:
        assert (done.returncode, done.stderr) == (2, "error: --config is missing; e.g. --config=configs/folder.py\n")
    else:
        assert done.returncode == 0 and "Example" in done.stdout and "--manifest" in done.stdout


def _all():
    return ", ".join(__main__.COMMANDS)
