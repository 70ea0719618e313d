"""The notebooks of `colabs/` as tests read them: cells, parameters, commands."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# What the long test trains: minutes instead of hours.
SMOKE = {
    "quickstart": {"VIDEOS": 64, "EPOCHS": 2.0, "MORE": "--config.train.batch_size=8 --config.evaluation.batch_size=8"},
    "your_videos": {"GENERATED": 48, "EPOCHS": 1.0, "MORE": "--config.train.batch_size=8 --config.train.max_steps=4"},
    "checkpoints": {"VIDEOS": 64, "MORE": "--config.train.batch_size=8 --config.train.max_steps=4"},
}


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def set_parameters(notebook: dict, values: dict) -> None:
    """Let the cell of parameters be followed by other values."""
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    known = {}
    exec("".join(cell["source"]), known)
    assert values.keys() <= known.keys(), "a parameter that the notebook does not have"
    cell["source"] = [*cell["source"], "\n", "\n".join(f"{name} = {value!r}" for name, value in values.items())]


def run_cells(notebook: dict, run_command) -> dict:
    """Execute the cells in this process as IPython would; return the names they leave behind.

    Args:
      notebook: as read.
      run_command: called with every line that begins with `!`, its `{names}` filled in; lines with `%` are skipped.
    """
    names = {"_run_command": lambda line: run_command(re.sub(r"\{(\w+)\}", lambda m: str(names[m[1]]), line))}
    for cell in code_cells(notebook):
        lines = "".join(cell["source"]).split("\n")
        lines = [re.sub(r"^(\s*)!(.*)$", lambda m: f"{m[1]}_run_command({m[2]!r})", line) for line in lines]
        exec("\n".join(re.sub(r"^(\s*)%.*$", r"\1pass", line) for line in lines), names)
    return names


def commands(path: pathlib.Path) -> list[str]:
    """Return all commands of a notebook, with the values of its parameters."""
    found, names = [], {}
    for cell in code_cells(read(path)):
        if "parameters" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), names)
        for line in "".join(cell["source"]).split("\n"):
            if line.strip().startswith("!"):
                found.append(re.sub(r"\{(\w+)\}", lambda m: str(names.get(m[1], "x")), line.strip()[1:]))
    return found


def execute(path: pathlib.Path, folder: pathlib.Path) -> list[dict]:
    """Execute a notebook from a clean kernel in `folder`, at smoke size; return its code cells with their outputs."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -e .[notebooks] to execute notebooks")
    nbformat = pytest.importorskip("nbformat", reason="pip install -e .[notebooks] to execute notebooks")
    pytest.importorskip("ipykernel", reason="pip install -e .[notebooks] to execute notebooks")
    notebook = read(path)
    set_parameters(notebook, SMOKE[path.stem])
    loaded = nbformat.reads(json.dumps(notebook), as_version=4)
    nbclient.NotebookClient(
        loaded, timeout=1800, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return code_cells(loaded)
