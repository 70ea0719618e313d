"""The tables of benchmarks/STUDY.md: rows of runs that are gone stay, rows of new runs replace those of fewer seeds."""

import pytest

from benchmarks import study
from configs import digits

HEAD = "### 500 steps, test videos\n\n| row | seeds | level | more |\n|---|---:|---|---:|\n"


def _written():
    return study.DOCUMENT.read_text(encoding="utf-8").partition(study.BEGIN)[2].partition(study.END)[0]


def test_document_without_runs_stays_as_it_is(tmp_path, monkeypatch):
    assert "\n\n".join(study.tables(tmp_path, _written())) == _written().strip()
    monkeypatch.delitem(study.ROWS, "regularizer 0")  # a row that has another name now
    found = "\n\n".join(study.tables(tmp_path, _written()))
    assert sorted(found.splitlines()) == sorted(_written().strip().splitlines())


@pytest.mark.parametrize(("num_seeds", "stays"), [(1, False), (2, False), (3, True)])
def test_row_of_more_seeds_wins_whole(monkeypatch, tmp_path, num_seeds, stays):
    new = ("| default | 2 | frame | new |", "| joint | 1 | frame | new |")
    places = ((1, 500, "default"), (1, 1500, "joint"))
    monkeypatch.setattr(study, "_measured", lambda _: zip(places, new, strict=True))
    old = "\n".join(f"| default | {num_seeds} | {level} | old |" for level in ("frame", "clip"))
    first, second = study.tables(tmp_path, HEAD + old + "\n\n")
    assert first.startswith("### 500 steps, test videos")
    assert first.endswith(old) if stays else first.endswith(f"---:|\n{new[0]}")
    assert second.startswith("### 1,500 steps, test videos") and second.endswith(new[1])


def test_runs_of_other_settings_do_not_count(tmp_path, capsys):
    config = digits.get_config()
    config.data.root, config.seed, config.train.max_steps = "elsewhere", 7, 500
    (tmp_path / "config.json").write_text(config.to_json())
    assert not study.has_other_settings(tmp_path, "default") and not study.has_other_settings(
        tmp_path / "none", "default"
    )
    assert study.has_other_settings(tmp_path, "joint")
    config.objective.regularizer_weight = 0.2
    (tmp_path / "config.json").write_text(config.to_json())
    capsys.readouterr()
    assert study.has_other_settings(tmp_path, "default") and not study.has_other_settings(tmp_path, "regularizer 0.2")
    assert "objective.regularizer_weight 0.2, where the row has 0.02" in capsys.readouterr().err
    assert study.has_other_settings(tmp_path, "16 frames") and study.has_other_settings(tmp_path, "supervised by digit")
    config.data.update(num_frames=16, frame_stride=2)
    (tmp_path / "config.json").write_text(config.to_json())
    assert not study.has_other_settings(tmp_path, "16 frames")
