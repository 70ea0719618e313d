"""A run knows its videos: another list gives another fingerprint, and lines that say what is different."""

import dataclasses
import json
import pathlib

import pytest

from hvt_jax.data.dataset import Dataset, Video
from hvt_jax.run.run_data import RunData

_NAMES = {"class": ("run", "walk")}


def _split(*videos):
    found = tuple(Video(path, (label,), None, *times) for path, label, *times in videos)
    return Dataset(pathlib.Path("nowhere"), found, dict(_NAMES))


TRAIN = _split(("a.mp4", 0), ("b.mp4", 1), ("c.mp4", 1, 0.0, 2.5), ("c.mp4", 1, 3.0, 0.0))
TEST = _split(("d.mp4", 0), ("e\udcff.mp4", 1))


def _changes(folder, train, test):
    RunData({"train": TRAIN, "test": TEST}).write(str(folder))
    return RunData({"train": train, "test": test}).changes(str(folder))


def test_what_stands_in_the_folder(tmp_path):
    data = RunData({"train": TRAIN, "test": TEST})
    assert data.changes(str(tmp_path)) == []  # the first run there
    data.write(str(tmp_path))
    content = json.loads((tmp_path / "data.json").read_text())
    assert (content["train"]["videos"], content["test"]["videos"], content["label_sets"]) == (4, 2, ["class"])
    assert len(content["test"]["sha256"]) == 64 and content["fingerprint"] == data.fingerprint < 2**48
    assert float(data.fingerprint) == data.fingerprint  # so that records can hold it
    assert data.changes(str(tmp_path)) == []


def test_order_and_numbers_do_not_matter_names_do(tmp_path):
    turned = dataclasses.replace(
        TRAIN,
        videos=tuple(dataclasses.replace(video, labels=(1 - video.labels[0],)) for video in TRAIN.videos[::-1]),
        label_names={"class": ("walk", "run")},
    )
    assert _changes(tmp_path, turned, TEST) == []
    counted = dataclasses.replace(TEST, videos=tuple(dataclasses.replace(v, num_frames=9) for v in TEST.videos))
    assert _changes(tmp_path, TRAIN, counted) == []
    renamed = dataclasses.replace(TRAIN, label_names={"class": ("running", "walk")})
    (line,) = _changes(tmp_path, renamed, TEST)
    assert "1 with another label (a.mp4, run -> running), classes that came or went: run; running" in line


def test_what_came_went_and_changed_is_said(tmp_path):
    grown = dataclasses.replace(
        _split(("a.mp4", 1), ("c.mp4", 1, 0.0, 2.5), *((f"new{n}.mp4", 2) for n in range(5))),
        label_names={"class": ("run", "walk", "jump")},
    )
    train, test = _changes(tmp_path, grown, _split(("d.mp4", 0)))
    assert train == (
        "data differs: 4 train videos before, 7 now: 5 came (new0.mp4, new1.mp4, new2.mp4, ...), "
        "2 went (b.mp4, c.mp4), 1 with another label (a.mp4, run -> walk), classes that came or went: jump; run"
    )
    assert test.startswith("data differs: 2 test videos before, 1 now: 1 went (e\udcff.mp4)")
    moved = _changes(tmp_path, dataclasses.replace(TRAIN, videos=TRAIN.videos[1:]), TEST)
    assert len(moved) == 1 and "1 went (a.mp4)" in moved[0]


@pytest.mark.parametrize("name", ["data.json", "videos.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\x1f\x8b\xff", b"null"])
def test_damaged_files_cost_only_the_words(tmp_path, name, content):
    RunData({"train": TRAIN, "test": TEST}).write(str(tmp_path))
    (tmp_path / name).write_bytes(content)
    lines = RunData({"train": TEST, "test": TRAIN}).changes(str(tmp_path))
    expected = ["data differs: 4 train videos before, 2 now", "data differs: 2 test videos before, 4 now"]
    assert lines == ([] if name == "data.json" else expected)
