"""A conversion is the same from any number of workers and after any interruption, and stands on its own."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hvt_jax.data import catalog, listing, pipeline, storages
from hvt_jax.data.dataset import DataError
from hvt_jax.tools import preparation, preparation_engines, preparation_reports
from hvt_jax.tools.conversion import Encoding
from tests.data import painted_videos, read_videos

_JPEG = Encoding("jpeg", 32, None, 90, 18, 12)
_MP4 = dataclasses.replace(_JPEG, content="mp4")
_KINDS = {"frames": ("frames", _JPEG), "hdf5": ("hdf5", _JPEG), "array_record": ("array_record", _JPEG)}
_KINDS |= {"mp4": ("array_record", _MP4)}
_RATE = {"a/one.mp4": ("mp4", "libx264"), "a/one.avi": ("avi", "mpeg4"), "b/two.mkv": ("matroska", "libx264")}


def _quiet(videos):
    pass


def _waves(count, shift):
    rows, columns = np.mgrid[:48, :64]
    waves = [np.stack([rows + 2 * t, columns - 3 * t, rows - columns + shift], -1) for t in range(count)]
    return (127 + 120 * np.sin(np.stack(waves) / 18)).astype(np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with four videos, two of which differ only in their suffix, one of which is damaged; two segments."""
    root = tmp_path_factory.mktemp("raw")
    for number, (name, kind) in enumerate(_RATE.items()):
        (root / name).parent.mkdir(exist_ok=True)
        painted_videos.write_video(root / name, list(_waves(30, 40 * number)), *kind, {"g": "12", "b": "4M"})
    (root / "b/bad.mp4").write_bytes((root / "a/one.mp4").read_bytes()[:3000])
    train = "a/one.mp4,x,0,0\na/one.avi,y,0,0\nb/two.mkv,x,0.2,0.6\nb/bad.mp4,y,0,0\n"
    (root / "train.csv").write_text(train)
    (root / "test.csv").write_text("b/two.mkv,y,0.6,0\n")
    return root


@pytest.fixture
def settings(raw, data_settings):
    return dataclasses.replace(data_settings, name="csv", root=str(raw), label="", num_frames=4, frame_stride=1)


def _convert(settings, out, kind="array_record", shards=2, workers=1, run=preparation_engines.run_local):
    storage, encoding = _KINDS[kind]
    plan = preparation.make_plan(settings, storage, out, encoding, shards)
    with preparation.locked(out):
        run(plan, workers, _quiet)
        reports = preparation.finish(plan, settings)
    return preparation_reports.summarise(reports, settings.max_bad_fraction)


def _contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", _KINDS)
def test_what_was_converted_stands_on_its_own(settings, raw, tmp_path, kind):
    shutil.copytree(raw, tmp_path / "raw")
    moved = dataclasses.replace(settings, root=str(tmp_path / "raw"))
    before = {split: catalog.load_dataset(moved, split) for split in ("train", "test")}
    summary = _convert(moved, tmp_path / "out", kind)
    assert (summary.videos, summary.frames, len(summary.failures)) == (4, 30 + 30 + 10 + 15, 1)
    assert summary.failures[0][:2] == ("b/bad.mp4", "unreadable")
    shutil.rmtree(tmp_path / "raw")
    stored = dataclasses.replace(moved, storage=_KINDS[kind][0], storage_root=str(tmp_path / "out"))
    train, test = (catalog.load_dataset(stored, split) for split in ("train", "test"))
    assert [video.labels for video in train.videos] == [(0,), (1,), (0,)] and test.videos[0].labels == (1,)
    assert train.label_names == before["train"].label_names == {"class": ("x", "y")}
    assert [video.num_frames for video in train.videos + test.videos] == [30, 30, 10, 15]
    videos = [video for video in before["train"].videos if "bad" not in video.path] + list(before["test"].videos)
    storage = storages.open_storage(stored, train)
    for old, new, first in zip(videos, train.videos + test.videos, (0, 0, 5, 15), strict=True):
        with storage.open_video(new) as reader:
            assert (round(reader.info.fps, 6), reader.info.height, reader.info.width) == (25, 32, 42)
            clip = reader.read(np.arange(new.num_frames), 32, 42)
        original = read_videos.decode_frames(raw / old.path, np.arange(first, first + new.num_frames), 32, 42)
        assert 10 * np.log10(255**2 / np.mean((clip.astype(float) - original) ** 2)) > 30
    assert next(pipeline.train_batches(train, stored, batch_size=3, seed=0, start_step=0))["valid"].all()


@pytest.mark.parametrize("kind", _KINDS)
def test_one_and_three_workers_give_the_same_bytes(settings, tmp_path, kind):
    for workers in (1, 3):
        _convert(settings, tmp_path / str(workers), kind, shards=3, workers=workers)
    one, three = (_contents(tmp_path / name) for name in "13")
    assert one == three and not [path for path in one if path.suffix == ".tmp"]


@pytest.mark.long
@pytest.mark.parametrize(("engine", "package"), [("beam", "apache_beam"), ("ray", "ray")])
@pytest.mark.filterwarnings("default")  # of other packages
def test_beam_and_ray_give_the_same_bytes(settings, tmp_path, monkeypatch, engine, package):
    """Both are extras; Beam wants an environment of its own (requirements-extras.txt)."""
    pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    _convert(settings, tmp_path / "local", shards=3)
    _convert(settings, tmp_path / engine, shards=3, workers=2, run=getattr(preparation_engines, f"run_{engine}"))
    assert _contents(tmp_path / engine) == _contents(tmp_path / "local")


def test_valid_shards_are_left_as_they_are(settings, raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    settings = dataclasses.replace(settings, root=str(tmp_path / "raw"))
    out = tmp_path / "out"
    _convert(settings, out, "frames")
    contents = _contents(out)

    def touched():
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.report.json")}
        summary = _convert(settings, out, "frames", shards=0)
        assert _contents(out).keys() == contents.keys() and summary.videos == 4
        return [path for path in sorted(before) if path.stat().st_mtime_ns != before[path]]

    assert touched() == []
    picture = next(out.rglob("00003.jpg"))
    picture.write_bytes(picture.read_bytes()[:-1])
    assert len(touched()) == 1 and _contents(out) == contents
    os.utime(tmp_path / "raw/b/two.mkv", (1, 1))
    assert len(touched()) == 1
    (tmp_path / "raw/a/one.avi").unlink()  # what was made from it stays
    assert touched() == []
    report = next(out.glob("*.report.json"))
    report.write_text(report.read_text()[:-9])
    contents |= {report.relative_to(out): None}
    assert touched() == [report]
    with pytest.raises(DataError, match="holds shards of 2, not of 5; name a new folder"):
        _convert(settings, out, "frames", shards=5)
    with pytest.raises(DataError, match="holds shards of 'frames', not of hdf5"):
        _convert(settings, out, "hdf5", shards=0)


def test_other_options_are_other_bytes(settings, tmp_path):
    plan = preparation.make_plan(settings, "array_record", tmp_path / "out", _JPEG, 1)
    with preparation.locked(tmp_path / "out"):
        first = preparation.process_shard(plan.spec, plan.shards[0])
        assert preparation.process_shard(plan.spec, plan.shards[0]) == first
        spec = dataclasses.replace(plan.spec, encoding=dataclasses.replace(_JPEG, crop=(20, 24)))
        assert preparation.process_shard(spec, plan.shards[0])["sha256"] != first["sha256"]


_KILLED = """
import dataclasses, pathlib, sys
from configs import default
from hvt_jax.settings import read_settings
from hvt_jax.tools import preparation, preparation_engines
from hvt_jax.tools.conversion import Encoding
if __name__ == "__main__":
    settings = dataclasses.replace(read_settings(default.get_config()).data, name="csv", root=sys.argv[1])
    out = pathlib.Path(sys.argv[2])
    plan = preparation.make_plan(settings, "frames", out, Encoding("jpeg", 32, None, 90, 18, 12), 4)
    with preparation.locked(out):
        preparation_engines.run_local(plan, 1, lambda done: print("video", flush=True))
"""


def test_killed_in_mid_conversion_and_run_again(settings, raw, tmp_path):
    (tmp_path / "killed.py").write_text(_KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(raw), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert [process.stdout.readline() for _ in range(2)] == ["video\n"] * 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.report.json")}
    assert len(kept) < 4 and not (tmp_path / "out" / listing.FILE_NAME).exists()
    time.sleep(0.1)
    _convert(settings, tmp_path / "out", "frames", shards=4)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    _convert(settings, tmp_path / "whole", "frames", shards=4)
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_an_interrupt_ends_the_workers_and_leaves_no_shard_half_done(settings, tmp_path):
    plan = preparation.make_plan(settings, "hdf5", tmp_path / "out", _JPEG, 1)

    def stop(videos):
        raise KeyboardInterrupt

    with preparation.locked(tmp_path / "out"), pytest.raises(KeyboardInterrupt):
        preparation_engines.run_local(plan, 2, stop)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [preparation.LOCK_NAME]


def _run_with(engine):
    return lambda plan, workers, on_videos: preparation_engines.ENGINES[engine](plan, workers, on_videos)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(("engine", "package"), [("beam", "apache_beam"), ("ray", "ray")])
def test_other_engines_give_the_same_bytes(settings, tmp_path, engine, package):
    pytest.importorskip(package)
    _convert(settings, tmp_path / "local", "mp4")
    _convert(settings, tmp_path / engine, "mp4", workers=2, run=_run_with(engine))
    assert _contents(tmp_path / engine) == _contents(tmp_path / "local")


@pytest.mark.parametrize(("engine", "package"), [("beam", "apache_beam"), ("ray", "ray")])
def test_engines_that_are_not_installed(settings, tmp_path, engine, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"--engine={engine} needs .*; pip install "):
        _convert(settings, tmp_path / "out", run=_run_with(engine))


def test_stored_names_never_meet():
    sources = ["a/one.avi", "a/one.mp4", "a/one/two.mp4", "c.tmp.avi", "prepared.json.avi", "d.avi", "d\udcff.avi"]
    sources = [(path, 0.0, 0.0) for path in sources] + [("d.avi", 1.5, 0.0), ("d.avi", 1.5, 2.0), ("d.avi", 0.0, 1.5)]
    names = listing.stored_names(sources)
    folders = {name.rpartition(".")[0] for name in names.values()}
    assert len(folders) == len(sources) and listing.stored_names(sources[::-1]) == names
    above = {folder.rsplit("/", depth)[0] for folder in folders for depth in range(1, folder.count("/") + 1)}
    assert not above & folders and not any(folder.endswith((".tmp", ".json")) for folder in folders)
    assert names["d.avi", 0.0, 0.0] == "d.avi" and names["d.avi", 1.5, 0.0] == "d@1.5-end.avi"
    assert names["a/one/two.mp4", 0.0, 0.0] == "a/one/two.mp4" and names["d\udcff.avi", 0.0, 0.0] == "d%ff.avi"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("tfds", {}), "--storage=tfds is read-only"),
        (("raw", {}), "--storage=raw cannot be written; use one of frames, hdf5, array_record"),
        (("hdf5", {"content": "mp4"}), "--content=mp4 needs --storage=array_record"),
        (("hdf5", {"quality": 0}), "--quality=0, but must be from 1 to 100"),
        (("hdf5", {"crop": (0, 5)}), "--crop=0, but must be"),
        (("hdf5", {"content": "png"}), "--content=png"),
    ],
)
def test_options_that_cannot_be_met(options, said):
    with pytest.raises(DataError, match=said):
        preparation.check_options(options[0], dataclasses.replace(_JPEG, **options[1]))


def test_folders_that_are_not_its_own(settings, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="is not empty and holds no conversion"):
        _convert(settings, tmp_path)
    with preparation.locked(tmp_path / "out"), pytest.raises(DataError, match="another conversion is at work"):
        _convert(settings, tmp_path / "out")


_ROW = ["a.mp4", "a.mp4", 0.0, 0.0, [0], 4, ""]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, "../a.mp4", "leads out of the data set"),
        (0, "/a.mp4", "is not a relative path"),
        (0, "a\0.mp4", "is not a relative path"),
        (0, 7, "must be texts"),
        (2, -1, "no segment"),
        (3, "1", "no segment"),
        (4, [2], "are not all from 0 to below"),
        (4, [0, 0], "needs a label for each of class"),
        (4, [True], "are not all"),
        (5, 0, "is no number of frames"),
        (5, 10**9, "is no number of frames"),
        (5, 2.5, "is no number of frames"),
    ],
)
def test_forged_listings_are_refused(data_settings, tmp_path, place, value, said):
    row = list(_ROW)
    row[place] = value
    content = {"format": 1, "name": "csv", "split": 1, "storage": "hdf5", "label_names": {"class": ["x", "y"]}}
    content |= {"columns": listing._COLUMNS, "train": [["b.mp4", *_ROW[1:]], row], "test": [_ROW]}
    (tmp_path / listing.FILE_NAME).write_text(json.dumps(content))
    settings = dataclasses.replace(data_settings, name="csv", storage="hdf5", storage_root=str(tmp_path))
    assert len(catalog.load_dataset(settings, "test")) == 1
    with pytest.raises(DataError, match=f"prepared.json, train row 2: .*{said}"):
        catalog.load_dataset(settings, "train")
    with pytest.raises(DataError, match="prepared with split = 1, but config.data.split = 2"):
        catalog.load_dataset(dataclasses.replace(settings, split=2), "test")
    (tmp_path / listing.FILE_NAME).write_text("[" * 100_000)
    with pytest.raises(DataError, match="is damaged"):
        catalog.load_dataset(settings, "test")
