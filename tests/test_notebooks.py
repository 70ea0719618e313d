"""The notebooks: clean files that call the package; what they call exists, and they run.

The quick start is also run by `tools/test_visualize.py`, which has a run with pictures.
"""

import os
import re
import shlex
import sys

import pytest

from tests import notebooks, test_readme


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean(path):
    notebook = notebooks.read(path)
    assert notebook["nbformat"] == 4 and "kernelspec" not in notebook["metadata"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebooks.code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    text = path.read_text()
    assert not re.search(r"/home/|/Users/|/content/|https?://", text)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_its_commands_parse(path):
    lines = notebooks.commands(path)
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "python" and words[:1] == ["-m"]
        test_readme.check_python(words)


@pytest.mark.long
@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_a_clean_kernel(path, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(notebooks.ROOT / "configs")
    # The kernel and the commands it starts are to find this Python, and the library where it was not installed.
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(notebooks.ROOT), prepend=os.pathsep)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    cells = notebooks.execute(path, tmp_path)
    said = "".join(str(output.get("text", "")) for cell in cells for output in cell["outputs"])
    assert "error:" not in said and "Traceback" not in said, said[-3000:]
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert path.stem == "checkpoints" or len(pictures) > 5
