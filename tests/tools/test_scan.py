"""A scan looks at every frame of every video, survives all of them, and does not do its work twice."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import time

import av
import numpy as np
import pytest

from hvt_jax.data import catalog, decode, manifest, transforms
from hvt_jax.data.dataset import DataError
from hvt_jax.tools import encode, scanning, subprocess_pool
from tests.data import painted_videos, read_videos

_CLIPS = pathlib.Path(__file__).parents[1] / "clips"
_FRAMES = [painted_videos.paint_number(i) for i in range(10)]


def _quiet(done, total):
    pass


def _nothing():
    pass


@pytest.fixture
def clips(tmp_path, data_settings):
    """Settings for a folder with two good videos and a damaged one."""
    for name in ("decord_corrupted.mp4", "decord_rot90.mov", "torchcodec_h264_10bits.mp4"):
        shutil.copy(_CLIPS / name, tmp_path)
    return dataclasses.replace(data_settings, name="folder", root=str(tmp_path), label="")


def test_what_is_found_is_written_down(clips, tmp_path):
    path, said = tmp_path / "manifest.jsonl", []
    entries = scanning.scan(clips, path, lambda done, total: said.append((done, total)))
    assert said[0] == (0, 3) and said[-1] == (3, 3)
    assert manifest.read_manifest(path) == entries and not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.tmp"))
    by_name = {entry.path: entry for entry in entries}
    turned, deep, bad = (by_name[n] for n in sorted(by_name)[1:] + sorted(by_name)[:1])
    assert (turned.frames, turned.height, turned.width, turned.rotation, turned.codec) == (3, 320, 568, 270, "h264")
    assert (deep.pixel_format, deep.frames, deep.fps, deep.problem) == ("yuv420p10le", 30, 30.0, "")
    assert bad.problem.startswith("unreadable: cannot be decoded") and bad.frames == 50
    status = os.stat(tmp_path / deep.path)
    assert (deep.bytes, deep.mtime) == (status.st_size, status.st_mtime)
    found = scanning.summarise(entries, 0.01)
    assert (found.good, found.kinds, found.too_many) == (2, {"unreadable": 1}, False)


def test_only_new_and_changed_files_are_looked_at_again(clips, tmp_path, monkeypatch):
    path = tmp_path / "manifest.jsonl"
    first = scanning.scan(clips, path, _quiet)
    looked = []
    real = scanning._look_at
    monkeypatch.setattr(scanning, "_look_at", lambda s, root, paths: looked.extend(paths) or real(s, root, paths))
    assert scanning.scan(clips, path, _quiet) == first and looked == []
    os.utime(tmp_path / "decord_rot90.mov", (1, 1))
    shutil.copy(_CLIPS / "decord_rot0.mov", tmp_path / "new.mov")
    again = scanning.scan(clips, path, _quiet)
    assert sorted(looked) == ["decord_rot90.mov", "new.mov"] and len(again) == 4
    assert {entry.mtime for entry in again if entry.path == "decord_rot90.mov"} == {1.0}
    looked.clear()
    hung = [dataclasses.replace(entry, problem="timeout: busy" if entry.path == "new.mov" else "") for entry in again]
    manifest.write_manifest(path, hung)
    assert not any(entry.problem for entry in scanning.scan(clips, path, _quiet)) and looked == ["new.mov"]


def test_an_interrupted_scan_goes_on_where_it_stopped(clips, tmp_path, monkeypatch):
    path = tmp_path / "manifest.jsonl"

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanning.scan(clips, path, stop)
    part = tmp_path / "manifest.jsonl.part"
    assert not path.exists() and part.read_text().count("\n") == 2
    part.write_text(part.read_text() + '{"path": "torn')  # as after kill -9
    looked = []
    real = scanning._look_at
    monkeypatch.setattr(scanning, "_look_at", lambda s, root, paths: looked.extend(paths) or real(s, root, paths))
    assert len(scanning.scan(clips, path, _quiet)) == 3 and len(looked) == 1 and not part.exists()


def test_the_frames_of_training_are_those_of_the_scan(clips, tmp_path):
    for entry in scanning.scan(clips, tmp_path / "manifest.jsonl", _quiet):
        if not entry.problem:
            assert entry.frames == read_videos.probe(tmp_path / entry.path).num_frames


def _check(path):
    return scanning.check_video((str(path), 30.0), _nothing)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("ffv1", "gray"), ("ffv1", "gray16le"), ("libx264", "yuv420p10le"), ("libx264", "yuv444p"), ("mjpeg", "yuvj420p")],
)
def test_pixel_formats_are_read_and_named(tmp_path, codec, pixel_format):
    with av.open(str(tmp_path / "v.mkv"), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 66, 34, pixel_format
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((66, 34, 3), 50 * number, np.uint8), format="rgb24")
            output.mux(stream.encode(frame.reformat(format=pixel_format)))
        output.mux(stream.encode())
    found = _check(tmp_path / "v.mkv")
    assert "problem" not in found and found["pixel_format"] == pixel_format and found["frames"] == 5
    grey = read_videos.decode_frames(tmp_path / "v.mkv", np.arange(5), 32, 32).mean((1, 2, 3))
    assert np.abs(grey - 50 * np.arange(5)).max() < 4


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (33, 17), (719, 405)])
def test_odd_sizes(tmp_path, size):
    frames = np.full((3, *size, 3), 90, np.uint8)
    with av.open(str(tmp_path / "v.avi"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    found = _check(tmp_path / "v.avi")
    assert "problem" not in found and (found["height"], found["width"]) == size
    assert np.abs(read_videos.decode_frames(tmp_path / "v.avi", [0, 2], 32, 48).astype(int) - 90).max() < 3


def test_variable_rate_sizes_that_change_and_frames_that_are_missing(tmp_path):
    times = np.cumsum([40, 10, 90, 40, 40, 200, 40, 15, 30, 60])
    painted_videos.write_video(tmp_path / "uneven.mkv", _FRAMES, "matroska", "libx264", times_ms=times)
    uneven = _check(tmp_path / "uneven.mkv")
    assert "problem" not in uneven and uneven["frames"] == 10 and uneven["fps"] == pytest.approx(9e3 / 525, rel=1e-3)
    parts = [np.full((4, *size, 3), 90, np.uint8) for size in ((64, 96), (96, 64))]
    written = [painted_videos.write_video(tmp_path / "part", part, "h264", "libx264").read_bytes() for part in parts]
    (tmp_path / "changing.h264").write_bytes(b"".join(written))
    assert "problem" not in _check(tmp_path / "changing.h264")
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), np.uint8)  # far larger than the header
    content = painted_videos.write_video(tmp_path / "half.avi", noise, "avi", "mpeg4").read_bytes()
    (tmp_path / "half.avi").write_bytes(content[: len(content) // 2])
    assert _check(tmp_path / "half.avi")["problem"].startswith("too few frames: truncated: ")
    shutil.copy(_CLIPS / "torchcodec_h265_video.mp4", tmp_path / "picture.avi")
    assert _check(tmp_path / "picture.avi")["codec"] == "hevc"


def test_a_long_film_has_the_time_limit_for_each_thousand_frames(tmp_path, monkeypatch):
    path = painted_videos.write_video(tmp_path / "v.mp4", _FRAMES, "mp4", "libx264")
    monkeypatch.setattr(decode, "FRAMES_PER_TIMEOUT", 2)
    renewed, real = [], transforms.fit_frame

    def slow(frame, height, width):
        time.sleep(0.5)
        return real(frame, height, width)

    monkeypatch.setattr(transforms, "fit_frame", slow)
    assert "problem" not in scanning.check_video((str(path), 20.0), lambda: renewed.append(1))
    assert len(renewed) >= 10  # while its packets are listed, and while they are decoded


def _frames(folder, names, settings, count=6, **fields):
    """Write folders of frames and a list of them; return settings to read them."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number, jpeg in enumerate(encode.encode_jpegs(_FRAMES[:count], 90)):
            (folder / name / f"{number:05d}.jpg").write_bytes(jpeg)
    (folder / "data.csv").write_text("".join(f"{name},{place % 2}\n" for place, name in enumerate(names)))
    return dataclasses.replace(settings, name="csv", root=str(folder), label="", storage="frames", **fields)


def test_the_storage_that_is_named_is_looked_at(tmp_path, data_settings):
    settings = _frames(tmp_path, "abcd", data_settings)
    (tmp_path / "b/00003.jpg").unlink()
    (tmp_path / "c/00004.jpg").write_bytes((tmp_path / "c/00004.jpg").read_bytes()[:-40])
    entries = {entry.path: entry for entry in scanning.scan(settings, tmp_path / "manifest.jsonl", _quiet)}
    assert (entries["a"].problem, entries["a"].frames, entries["a"].height, entries["a"].storage) == (
        "",
        6,
        64,
        "frames",
    )
    assert entries["b"].problem == "too few frames: frame 3 is missing, 5 of 6 are there"
    assert entries["c"].problem.startswith("unreadable: a picture cannot be decoded")
    kept = [video.path for split in ("train", "test") for video in catalog.load_dataset(settings, split).videos]
    assert sorted(kept) == ["a", "d"]
    for number in (3, 4):  # repaired: the entries do not hold any more
        for name in "bc":
            (tmp_path / name / f"0000{number}.jpg").unlink(missing_ok=True)
            (tmp_path / name / f"0000{number}.jpg").write_bytes((tmp_path / "a/00000.jpg").read_bytes())
    assert not any(entry.problem for entry in scanning.scan(settings, tmp_path / "manifest.jsonl", _quiet))


def test_a_manifest_of_another_storage_stops_no_training(tmp_path, data_settings, caplog):
    settings = _frames(tmp_path, "abcd", data_settings)
    raw = dataclasses.replace(settings, storage="raw")
    assert {entry.problem for entry in scanning.scan(raw, tmp_path / "manifest.jsonl", _quiet)} == {
        "missing: a folder, not a file; data.storage = 'frames' reads folders of frames"
    }
    with caplog.at_level(logging.INFO, "hvt_jax"):
        assert sum(len(catalog.load_dataset(settings, split)) for split in ("train", "test")) == 4
    assert caplog.messages[0].endswith("is of data.storage = raw, not of frames, and does not count")
    assert not any(entry.problem for entry in scanning.scan(settings, tmp_path / "manifest.jsonl", _quiet))


def test_shards_are_left_to_their_hashes(data_settings, tmp_path):
    with pytest.raises(DataError, match="data.storage = 'hdf5': a scan looks at videos as they came"):
        scanning.scan(dataclasses.replace(data_settings, storage="hdf5"), tmp_path / "manifest.jsonl", _quiet)
    assert not list(tmp_path.iterdir())


def test_one_video_and_one_split_are_enough(tmp_path, data_settings, caplog):
    settings = dataclasses.replace(data_settings, name="folder", root=str(tmp_path), label="")
    shutil.copy(_CLIPS / "decord_rot90.mov", tmp_path / "one.mov")
    (entry,) = scanning.scan(settings, tmp_path / "manifest.jsonl", _quiet)
    assert (entry.path, entry.problem, entry.video_streams, entry.start) == ("one.mov", "", 1, 0.0)
    assert "one split is left out: " in caplog.text and "leave none for test" in caplog.text
    (tmp_path / "train").mkdir()
    (tmp_path / "one.mov").rename(tmp_path / "train/one.mov")
    assert [entry.path for entry in scanning.scan(settings, tmp_path / "manifest.jsonl", _quiet)] == ["train/one.mov"]
    with pytest.raises(DataError, match="no such folder"):
        scanning.scan(dataclasses.replace(settings, root="nowhere"), tmp_path / "manifest.jsonl", _quiet)


def test_what_a_scan_wrote_it_can_read_and_an_earlier_version_is_not_believed(tmp_path, data_settings, caplog):
    settings = dataclasses.replace(data_settings, name="folder", root=str(tmp_path), label="")
    for name in ("a:b.mov", "C:\\x.mov"):
        shutil.copy(_CLIPS / "decord_rot90.mov", tmp_path / name)
    os.utime(tmp_path / "a:b.mov", (-3600, -3600))
    path = tmp_path / "manifest.jsonl"
    first = scanning.scan(settings, path, _quiet)
    assert scanning.scan(settings, path, _quiet) == first and not any(entry.problem for entry in first)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["problem"] = "too few frames: truncated: 0 of 75 frames"
        for field in ("storage", "start", "mirrored", "video_streams"):
            del row[field]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    with caplog.at_level(logging.INFO, "hvt_jax"):
        kept = []
        for split in ("train", "test"):
            with contextlib.suppress(DataError):
                kept += [video.path for video in catalog.load_dataset(settings, split).videos]
    assert rows[0]["path"] not in kept and "was written by an earlier version" in caplog.text
    assert scanning.scan(settings, path, _quiet) == first


def _do(item, renew):
    kind, value = item
    if kind == "sleep":
        time.sleep(value)
    if kind == "patient":
        for _ in range(value):
            time.sleep(0.5)
            renew()
    if kind == "die":
        os.kill(os.getpid(), value)
    if kind == "exit":
        os._exit(value)
    if kind == "raise":
        raise ValueError("two\nlines")
    if kind == "eat":
        return len(bytes(value))
    return value


def test_a_child_that_breaks_a_limit_costs_only_its_item():
    items = [("give", 1), ("sleep", 600), ("die", 11), ("exit", 3), ("raise", 0), ("eat", 8 * 2**30), ("give", 2)]
    items += [("give", number) for number in range(3, 9)]
    limits = subprocess_pool.Limits(3.0, 4 * 2**30)
    found = dict(subprocess_pool.run(_do, items, workers=2, limits=limits))
    assert sorted(found) == list(range(len(items)))
    assert [found[place] for place in (0, *range(6, 13))] == list(range(1, 9))
    assert found[1].timed_out and "was killed" in found[1].reason
    assert [found[place].timed_out for place in range(2, 6)] == [False] * 4
    assert "SIGSEGV" in found[2].reason and "code 3" in found[3].reason
    assert found[4].reason == "ValueError two lines" and found[5].reason.startswith("MemoryError")


def test_progress_is_a_sign_of_life(monkeypatch):
    monkeypatch.setattr(subprocess_pool, "_GRACE_SECONDS", 0.0)
    assert dict(
        subprocess_pool.run(_do, [("patient", 8)], workers=1, limits=subprocess_pool.Limits(3.0, 4 * 2**30))
    ) == {0: 8}


def test_a_manifest_that_cannot_be_written_or_read(clips, tmp_path):
    with pytest.raises(DataError, match=r"^/: is a folder; name a file with --manifest"):
        scanning.scan(clips, pathlib.Path("/"), _quiet)
    with pytest.raises(DataError, match="name a file that can be written with --manifest"):
        scanning.scan(clips, tmp_path / "none" / "manifest.jsonl", _quiet)
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="row 1: needs exactly the fields path, bytes"):
        scanning.scan(clips, tmp_path / "manifest.jsonl", _quiet)
    assert json.loads((tmp_path / "manifest.jsonl").read_text()) == {}
