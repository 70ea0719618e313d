"""Every command line in the documents parses: modules, flags, configs, fields, files and make targets exist.

Nothing is run. A line is read as a shell would read it; programs that are not ours must be in OTHER_PROGRAMS.
"""

import ast
import importlib.util
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from hvt_jax.settings import read_settings
from hvt_jax.settings.curriculum import read_curriculum

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
OTHER_PROGRAMS = {"source", "mkdir", "unrar", "unzip", "pip", "[", "exit", "scontrol", "tensorboard", "docker"}
WRAPPERS = {"srun"}
SHELL = {"&&", "||", ";", "|"}


def command_lines():
    """Yield (document, line): every line of a bash block, `make` and `python -m` in running text and docstrings."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        inline = re.findall(r"`((?:make|python -m) [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*blocks.replace("\\\n", " ").splitlines(), *inline]:
            if line.strip() and not line.startswith("#"):
                yield path.name, line.strip()
    for path in sorted((ROOT / "configs").glob("*.py")):
        for line in re.findall(
            r"^    (python -m .*)$", ast.get_docstring(ast.parse(path.read_text())) or "", re.MULTILINE
        ):
            yield path.name, line


COMMANDS = list(dict.fromkeys(command_lines()))


def simple_commands(line):
    """Return the commands of a line as lists of words, without comments, variables set before them and wrappers."""
    words = shlex.split(line, comments=True)
    commands = [[]]
    for word in words:
        if word in SHELL:
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"\w+=.*", word) and word not in WRAPPERS:
            commands[-1].append(word)
    return [command for command in commands if command]


def defined_flags(path):
    """Return the names of the absl flags that a command defines."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "attr", "").startswith("DEFINE_")]
    return {call.args[0].value for call in named}


def check_config(arguments, read=read_settings):
    """Read the config that a command names, with its overrides; a mistake raises."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *arguments])  # config_flags looks there for what is overridden
        values(sys.argv)
        read(holder.value)


def check_python(words):
    assert words[:1] == ["-m"], f"python {' '.join(words)}: documents run modules"
    module, *arguments = words[1:]
    if not module.startswith(("hvt_jax", "benchmarks")):
        assert importlib.util.find_spec(module), f"no module {module}"
        return
    if module == "hvt_jax":
        module = f"hvt_jax.commands.{arguments.pop(0)}"
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert path.exists(), f"no module {module}"
    known = defined_flags(path)
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments  # what follows is another's
    for argument in arguments:
        assert argument.startswith("--"), f"{module}: {argument} is no flag"
        name = argument[2:].split("=")[0].split(".")[0]
        assert name in known or name.removeprefix("no") in known, f"{module} has no flag --{name}"
    config = [argument for argument in arguments if argument.startswith(("--config=", "--config."))]
    if config and config[0].startswith("--config=configs/"):
        check_config(config, read_curriculum if module.endswith(".curriculum") else read_settings)


def check_make(words):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) *[?:]?=", makefile, re.MULTILINE))
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert name in (variables if is_variable else targets), f"make has no {name}"


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=[f"{name}-{line[:60]}" for name, line in COMMANDS])
def test_command_parses(document, line):
    assert document
    for program, *words in simple_commands(line):
        if program == "python":
            check_python(words)
        elif program == "make":
            check_make(words)
        else:
            assert program in OTHER_PROGRAMS, f"what is {program}?"
            for file in [word for word in words if word.endswith(".txt")]:
                assert (ROOT / file).exists(), f"no file {file}"


def test_the_two_commands_lead():
    first_block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert [line.split()[:2] for line in first_block.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_fields_named_in_tables_and_text_exist(path):
    from configs import default

    fields = set(default.get_config())
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_*]+)+)(?: ?=[^`]*)?`", path.read_text(encoding="utf-8")):
        section, *rest = name.split(".")
        node = default.get_config()
        if section not in fields or rest[-1] in ("py", "md", "json", "txt", "csv", "safetensors"):
            continue
        for part in name.split("."):
            part = "frame" if part == "*" else part
            assert part in node, f"{path.name}: there is no field {name}"
            node = node[part]


def test_what_the_demo_is_said_to_train_is_what_its_config_says():
    from configs import digits
    from hvt_jax.engine import steps
    from hvt_jax.run import describe

    shown = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for line in describe.describe(steps.define(read_settings(digits.get_config()))).splitlines():
        assert line in shown, f"README.md shows another model: it lacks {line!r}"


def test_requirements_agree_with_pyproject():
    """Every direct dependency is pinned at or above its floor, under the same name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = (ROOT / "pyproject.toml").read_text()
    floors = [Requirement(row) for row in re.findall(r'^  "([^"]+>=[^"]+)",$', text, re.MULTILINE)]
    rows = [row.split("#")[0].strip() for row in (ROOT / "requirements.txt").read_text().splitlines()]
    pins = [Requirement(row) for row in rows if row]
    assert len(floors) > 10
    for floor in floors:
        found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(floor.name)]
        assert found, f"{floor.name} is not pinned"
        for pin in found:
            version = str(pin.specifier).removeprefix("==")
            assert floor.specifier.contains(version), f"{pin} is below {floor}"
