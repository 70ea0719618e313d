"""The image is built of files that are there, for a user without rights; no Docker is needed to see that."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_the_image_is_built_of_what_is_there_and_not_ignored():
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    taken = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(taken) == sorted(kept) and all((ROOT / name).exists() for name in taken)
    assert re.fullmatch(r"FROM python:3\.\d+-slim", next(line for line in lines if line.startswith("FROM")))
    assert any("-r requirements-cuda12.txt" in line for line in lines)
    build, user = "\n".join(lines), [line for line in lines if line.startswith("USER ")]
    assert user == ["USER hvt"] and build.index("USER hvt") > build.index("useradd") > build.index("pip install")


def test_the_documentation_runs_it_on_gpus_and_says_that_nobody_has():
    text = (ROOT / "docs" / "docker.md").read_text()
    assert "was not built and not run" in text
    for option in ("--gpus all", "--shm-size=", "--mount type=bind", "--user "):
        assert option in text
