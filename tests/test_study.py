"""The tables of benchmarks/STUDY.md: rows of runs that are gone stay, rows of new runs replace those of fewer seeds."""

import pytest

from benchmarks import study

HEAD = "### 500 steps, test videos\n\n| row | seeds | level | more |\n|---|---:|---|---:|\n"


def test_document_without_runs_stays_as_it_is(tmp_path):
    written = study.DOCUMENT.read_text(encoding="utf-8").partition(study.BEGIN)[2].partition(study.END)[0]
    assert "\n\n".join(study.tables(tmp_path, written)) == written.strip()


@pytest.mark.parametrize(("num_seeds", "stays"), [(1, False), (2, False), (3, True)])
def test_row_of_more_seeds_wins(monkeypatch, tmp_path, num_seeds, stays):
    new = ("| default | 2 | frame | new |", "| joint | 1 | frame | new |")
    places = ((1, 500, "default", "frame"), (1, 1500, "joint", "frame"))
    monkeypatch.setattr(study, "_measured", lambda _: zip(places, new, strict=True))
    old = f"| default | {num_seeds} | frame | old |"
    first, second = study.tables(tmp_path, HEAD + old + "\n\n")
    assert first.startswith("### 500 steps, test videos") and first.endswith(old if stays else new[0])
    assert second.startswith("### 1,500 steps, test videos") and second.endswith(new[1])
