"""Bad videos met while training: opened once, written down, counted, and the end of a run that meets too many."""

import dataclasses
import json
import pathlib

import av
import numpy as np
import pytest

from hvt_jax.data import pipeline, problems, storages
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import Problem
from hvt_jax.run.bad_videos import BadVideos
from hvt_jax.settings import read_settings
from tests import kill_and_resume, runs, small

_PATHS = tuple(f"{number}.avi" for number in range(20))


def _splits():
    return tuple(
        Dataset(pathlib.Path("nowhere"), tuple(Video(path, (0,)) for path in paths), {"class": ("all",)})
        for paths in (_PATHS[:15], _PATHS[15:])
    )


def _batch(**problems):
    numbers = [int(name[1:]) for name in problems]
    kinds = np.array(list(problems.values()), np.int8)
    return {"index": np.array(numbers, np.int32), "problem": kinds, "frames": np.full(len(kinds), 2, np.int32)}


def _new(folder, splits, fraction=1.0, restored_step=None):
    return BadVideos(str(folder), splits, fraction, restored_step)


def test_videos_are_noted_once_and_written_down(tmp_path):
    splits = _splits()
    bad = _new(tmp_path, splits)
    batch = _batch(n3=Problem.EMPTY, n4=Problem.OK, n5=Problem.DAMAGED)
    assert bad.note(splits[0], batch, 7) == ["3.avi: empty", "5.avi: damaged (2 could be read)"]
    assert bad.note(splits[0], batch, 8) == [] and len(bad) == 2
    assert bad.note(splits[1], _batch(n0=Problem.TIMEOUT), 8) == ["15.avi: timeout"]
    assert [bad.count(step) for step in (6, 7, 8)] == [0, 2, 3]
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert rows[0] == {"path": "3.avi", "problem": "empty", "frames": 2, "step": 7} and len(rows) == 3
    # Damaged frames spoil their windows only; what cannot be opened is opened no more, in no split.
    closed = {"3.avi": (Problem.EMPTY, 2), "15.avi": (Problem.TIMEOUT, 2)}
    assert splits[0].quarantine == splits[1].quarantine == closed


def test_reasons_are_said_written_and_read_again(tmp_path):
    splits = _splits()
    batch = _batch(n3=Problem.UNREADABLE, n4=Problem.TOO_FEW_FRAMES)
    texts = ["img_1.jpg and 1.jpg have the same\nnumber", "é" * 300]
    batch["reason"] = np.stack([problems.pack_reason(text) for text in texts])
    said = _new(tmp_path, splits).note(splits[0], batch, 2)
    assert said[0] == "3.avi: unreadable: img_1.jpg and 1.jpg have the same number"
    assert said[1] == "4.avi: too few frames (2 could be read): " + "é" * 100
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert rows[0]["reason"] == "img_1.jpg and 1.jpg have the same number"
    splits = _splits()
    assert _new(tmp_path, splits, restored_step=4).lines == said
    assert splits[1].reasons["3.avi"] == rows[0]["reason"]  # batches of the resumed run say the same


def test_a_resumed_run_begins_with_those_of_its_past(tmp_path):
    splits = _splits()
    first = _new(tmp_path, splits)
    first.note(splits[0], _batch(n3=Problem.EMPTY, n4=Problem.DAMAGED), 2)
    first.note(splits[0], _batch(n5=Problem.MISSING), 6)
    splits = _splits()
    resumed = _new(tmp_path, splits, restored_step=4)
    assert resumed.lines == ["3.avi: empty", "4.avi: damaged (2 could be read)"]
    assert splits[0].quarantine == {"3.avi": (Problem.EMPTY, 2)}
    without = (dataclasses.replace(splits[0], videos=splits[0].videos[4:]), splits[1])
    assert _new(tmp_path, without, restored_step=9).lines == ["4.avi: damaged (2 could be read)", "5.avi: missing"]
    assert _new(tmp_path, _splits()).lines == []


@pytest.mark.parametrize(
    "row", ["\xff", "{", "[]", '{"path": "a"}', '{"path": "a", "problem": "x", "frames": 0, "step": 0}']
)
def test_a_damaged_list_is_an_error_with_the_row(tmp_path, row):
    (tmp_path / "quarantine.jsonl").write_bytes(row.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match="quarantine.jsonl, row 1: .* remove the file"):
        _new(tmp_path, _splits(), restored_step=1)


def test_too_many_are_told_with_their_names(tmp_path):
    splits = _splits()
    bad = _new(tmp_path, splits, 0.01)
    bad.note(splits[0], _batch(n0=Problem.EMPTY, n1=Problem.EMPTY, n2=Problem.DAMAGED, n3=Problem.MISSING), 1)
    short = _batch(**{f"n{number}": Problem.TOO_SHORT for number in range(4, 15)})
    bad.note(splits[0], short, 1)
    assert bad.excess == ""  # four are let through, and short videos do not count
    bad.note(splits[1], _batch(n4=Problem.CRASHED), 2)
    assert "5 of 20 videos are bad, 25.0%, more than data.max_bad_fraction = 0.01: 0.avi: empty; " in bad.excess
    assert "hvt_jax scan" in bad.excess and "\n" not in bad.excess
    assert _new(tmp_path, _splits(), 0.01, restored_step=1).excess == ""
    assert _new(tmp_path, _splits(), 0.01, restored_step=2).excess == bad.excess


def test_what_cannot_be_opened_is_opened_once(tmp_path, monkeypatch):
    (tmp_path / "text.avi").write_text("no video" * 99)
    data = dataclasses.replace(read_settings(small.small_config()).data, num_workers=0, root=str(tmp_path))
    dataset = Dataset(tmp_path, (Video("text.avi", (0,)),), {"class": ("all",)})
    opened, real = [], storages.VideoReader
    monkeypatch.setattr(storages, "VideoReader", lambda *options: opened.append(1) or real(*options))
    batches = pipeline.train_batches(dataset, data, batch_size=1, seed=0, start_step=0)
    found = [next(batches) for _ in range(6)]
    assert len(opened) == 1 and [int(batch["problem"][0]) for batch in found] == [Problem.UNREADABLE] * 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data in which late windows of the 16 training videos are damaged; the central ones are not."""
    folder = tmp_path_factory.mktemp("world")
    data = runs.make_data(folder / "digits")
    rows = (data / "annotations" / "trainlist01.txt").read_text().splitlines()
    for path in (data / "videos" / row.split()[0] for row in rows):
        content = bytearray(path.read_bytes())
        with av.open(str(path)) as file:
            packets = [packet for packet in file.demux(video=0) if packet.size]
        for packet in packets[30:]:
            content[packet.pos : packet.pos + packet.size] = b"\x5a" * packet.size
        path.write_bytes(content)
    return folder


def _run(world, workdir, fraction):
    fields = {**runs.FIELDS, "data.root": world / "digits", "data.max_bad_fraction": fraction}
    fields["evaluation.interval"] = 0.0  # the end is enough
    return runs.train_here(workdir, fields)


def test_a_run_that_meets_too_many_saves_and_ends_with_2(world):
    left_alone = _run(world, world / "alone", 1.0)
    assert left_alone.code == 0, left_alone.stderr
    assert 0 < len(runs.results(world / "alone")["bad_videos"]) <= 16
    stopped = _run(world, world / "stopped", 0.0)
    assert stopped.code == 2, stopped.stderr
    lines = stopped.stderr.splitlines()
    assert len(lines) == 1 and "more than data.max_bad_fraction = 0: " in lines[0] and "damaged" in lines[0]
    step = int(lines[0].partition("stopped at step ")[2].partition(":")[0])
    assert step > 0 and (world / "stopped" / "checkpoints" / f"manifest-{step}.json").exists()
    # Where damaged windows are met, and what is made of them, does not depend on the interruption.
    resumed = _run(world, world / "stopped", 1.0)
    assert (resumed.code, resumed.resumed_at) == (0, step), resumed.stderr
    assert kill_and_resume.differences(world / "alone", world / "stopped") == []
