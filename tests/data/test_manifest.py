"""Training believes a manifest as far as its files are the ones that were looked at, and no forged one."""

import dataclasses
import json
import logging
import os

import pytest

from hvt_jax.data import catalog, manifest, pipeline
from hvt_jax.data.dataset import DataError
from hvt_jax.data.manifest import Entry


@pytest.fixture
def folder(tmp_path, data_settings):
    """Settings for a folder with 12 files, none of them a video, and their entries, 40 frames each."""
    for number in range(12):
        (tmp_path / f"{number:02d}.mp4").write_bytes(b"x" * (number + 1))
    settings = dataclasses.replace(data_settings, name="folder", root=str(tmp_path), label="")
    paths = [path.name for path in sorted(tmp_path.iterdir())]
    return settings, [Entry(path, *manifest.file_state(tmp_path / path), frames=40) for path in paths]


def _write(settings, entries):
    manifest.write_manifest(manifest.find_manifest(settings), entries)


def _paths(settings):
    return [video.path for split in ("train", "test") for video in catalog.load_dataset(settings, split).videos]


def test_bad_videos_are_left_out_and_named(folder, caplog):
    settings, entries = folder
    before = _paths(settings)
    entries[3] = dataclasses.replace(entries[3], problem="unreadable: because")
    _write(settings, entries)
    with caplog.at_level(logging.INFO, "hvt_jax"):
        after = _paths(settings)
    assert after == [path for path in before if path != "03.mp4"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "1 of " in lines[0] and "03.mp4 (unreadable: because)" in lines[0]
    assert _paths(dataclasses.replace(settings, manifest="none")) == before


def test_frames_are_not_counted_again(folder, monkeypatch):
    settings, entries = folder
    _write(settings, entries)
    monkeypatch.setattr(pipeline, "count_frames", None)
    dataset = catalog.load_dataset(dataclasses.replace(settings, max_windows_per_video=0), "train")
    assert {video.num_frames for video in dataset.videos} == {40}
    videos, _ = pipeline.training_samples(dataset, dataclasses.replace(settings, max_windows_per_video=0))
    assert len(videos) == 9 * len(dataset)


def test_entries_of_changed_and_unknown_files_do_not_hold(folder, tmp_path, caplog):
    settings, entries = folder
    entries = [dataclasses.replace(entry, problem="unreadable: because") for entry in entries]
    _write(settings, entries[:-1])
    os.utime(tmp_path / "00.mp4", (1, 1))
    (tmp_path / "01.mp4").write_bytes(b"repaired")
    with caplog.at_level(logging.WARNING, "hvt_jax"):
        try:
            kept = _paths(settings)
        except DataError:  # all of a split are bad
            kept = [video.path for video in catalog.load_dataset(settings, "train").videos]
    assert set(kept) <= {"00.mp4", "01.mp4", "11.mp4"} and kept
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "have changed since" in said or "does not know" in said


def test_a_data_set_of_bad_videos_only_is_an_error(folder):
    settings, entries = folder
    _write(settings, [dataclasses.replace(entry, problem="empty: 0 bytes") for entry in entries])
    with pytest.raises(DataError, match=r"videos are bad: .*; and \d+ more|videos are bad: .*"):
        catalog.load_dataset(settings, "train")


def test_a_manifest_that_is_asked_for_must_exist(folder, tmp_path):
    with pytest.raises(DataError, match="elsewhere.jsonl"):
        catalog.load_dataset(dataclasses.replace(folder[0], manifest=str(tmp_path / "elsewhere.jsonl")), "train")


_GOOD = dataclasses.asdict(Entry("a.mp4", 1, 1.0))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "needs exactly the fields"),
        (json.dumps({"path": "a.mp4"}), "needs exactly the fields"),
        (json.dumps({**_GOOD, "more": 1}), "needs exactly the fields"),
        (json.dumps({**_GOOD, "path": "../a.mp4"}), "path = '../a.mp4' leads out of the data set"),
        (json.dumps({**_GOOD, "path": "/etc/passwd"}), "is not a relative path"),
        (json.dumps({**_GOOD, "path": "a\0.mp4"}), "is not a relative path"),
        (json.dumps({**_GOOD, "path": 3}), "path = 3 must be str"),
        (json.dumps({**_GOOD, "frames": "3"}), "frames = '3' must be int"),
        (json.dumps({**_GOOD, "frames": 3.5}), "frames = 3.5 must be int"),
        (json.dumps({**_GOOD, "frames": True}), "must be int"),
        (json.dumps({**_GOOD, "frames": -1}), "frames = -1 is out of range"),
        (json.dumps({**_GOOD, "bytes": 10**400}), "is out of range"),
        (json.dumps({**_GOOD, "fps": float("nan")}), "fps = nan is out of range"),
        (json.dumps({**_GOOD, "mtime": float("inf")}), "mtime = inf is out of range"),
        (json.dumps(_GOOD | {"path": "b.mp4"}), "'b.mp4' was in row 1 before"),
    ],
)
def test_hostile_rows_are_refused_with_their_number(tmp_path, row, words):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(_GOOD | {"path": "b.mp4"}) + "\n" + row + "\n")
    with pytest.raises(DataError) as caught:
        manifest.read_manifest(path)
    assert "row 2: " in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_windows_rows_and_odd_names_survive(tmp_path):
    entries = [Entry("naïve\n\udcff.mp4", 2, 1795419935.8096495, 3, 0.12, 25.0), Entry("-a b.mp4", 0, 0.0)]
    entries += [Entry("C:\\a.mp4", 1, -3600.25), Entry("a:b.mp4", 1, 0.0)]  # a name on Linux, a time before 1970
    manifest.write_manifest(tmp_path / "m.jsonl", entries)
    assert manifest.read_manifest(tmp_path / "m.jsonl") == entries
    content = (tmp_path / "m.jsonl").read_bytes()
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert manifest.read_manifest(tmp_path / "m.jsonl") == entries


@pytest.mark.parametrize(
    ("bad", "total", "fraction", "too_many"),
    [
        (0, 10, 0.0, False),
        (1, 10_000, 0.0, True),
        (4, 100, 0.01, False),  # a handful in a small data set
        (5, 100, 0.01, True),
        (5, 500, 0.01, False),  # exactly one per cent
        (6, 500, 0.01, True),
        (100, 10_000, 0.01, False),
        (101, 10_000, 0.01, True),
        (1, 3, 0.01, False),
        (1, 2, 0.01, True),  # half of a tiny data set
        (2, 4, 0.6, False),
        (10, 10, 1.0, False),
    ],
)
def test_how_many_are_too_many(bad, total, fraction, too_many):
    assert manifest.are_too_many(bad, total, fraction) is too_many
