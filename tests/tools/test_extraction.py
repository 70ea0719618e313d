"""Features of whole videos: the numbers of evaluation, windows in time, what damage and interruptions leave."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from hvt_jax.data import catalog, pipeline, video_windows
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.video_windows import Step
from hvt_jax.engine import sharding, steps
from hvt_jax.evaluation import features
from hvt_jax.run.trained import Trained
from hvt_jax.settings import SettingsError
from hvt_jax.tools import extraction
from hvt_jax.tools.feature_files import Done, FeatureFile
from tests import small

LEVELS, FOLLOWING = ("frame", "clip"), Step()


@pytest.fixture(scope="module")
def model(digits_root):
    """A small untrained model, as a run would give it; frames are decoded larger than it sees them."""
    fields = {"data.root": str(digits_root), "data.resize_margin": 1.5, "data.frame_stride": 2, "data.num_workers": 0}
    definition = small.define(**fields)
    params, stats = jax.jit(lambda: steps.initial_variables(definition, 0))()
    whole = sharding.replicated(sharding.make_mesh(definition.settings.train))
    placed = jax.device_put({"params": params, "stats": stats}, whole)
    return Trained("a test", 0, definition.settings, definition, **placed)


def extract(model, dataset, path, step=FOLLOWING, **options):
    options = {"levels": LEVELS, "batch_size": 8, "on_progress": lambda *_: None} | options
    found = extraction.extract(model, dataset, str(path), step=step, **options)
    with np.load(path) as arrays:
        return found, dict(arrays)


@pytest.fixture
def videos(model):
    return catalog.load_dataset(model.settings.data, "test")


def test_the_numbers_are_those_of_evaluation(model, videos, tmp_path):
    encode = model.compile()
    batches = pipeline.evaluation_batches(videos, model.settings.data, batch_size=4)
    evaluated, index = features.extract_features(
        encode, batches, lambda batch: batch, on_batch=lambda _: None, should_stop=lambda: False
    )
    found, arrays = extract(model, videos, tmp_path / "f.npz", Step(centre=True))
    assert found.windows == len(videos) == len(index) and not found.damaged
    assert [videos.videos[number].path for number in index] == arrays["path"].tolist()
    for level in LEVELS:
        assert arrays[level].dtype == np.float32 and arrays[level].std() > 0.1
        np.testing.assert_allclose(arrays[level], evaluated[level], atol=1e-5)


def test_windows_cover_a_video_and_say_when_they_are(model, videos, tmp_path):
    """Videos have 40 frames at 25 a second; a window of 4 frames with stride 2 spans 7 of them."""
    one = dataclasses.replace(videos, videos=videos.videos[:1])
    count = 40
    _, arrays = extract(model, one, tmp_path / "f.npz")
    starts = np.array([0, 8, 16, 24, 32])
    np.testing.assert_allclose(arrays["start_seconds"], starts / 25)
    np.testing.assert_allclose(arrays["end_seconds"], (starts + 7) / 25)
    _, dense = extract(model, one, tmp_path / "g.npz", video_windows.parse_step("0.04s"), batch_size=4)
    assert len(dense["path"]) == count - 7 + 1
    np.testing.assert_allclose(dense["clip"][starts], arrays["clip"], atol=1e-5)
    part = Video(one.videos[0].path, (0,), None, 0.4, 1.0)  # frames 10 to 24
    _, cut = extract(model, Dataset(one.root, (part,), {"class": ("jump",)}), tmp_path / "h.npz", Step(frames=8))
    np.testing.assert_allclose(cut["start_seconds"], [0.4, 0.72])
    np.testing.assert_allclose(cut["clip"], dense["clip"][[10, 18]], atol=1e-5)
    assert cut["label"].tolist() == ["jump", "jump"]


@pytest.mark.parametrize(
    ("frames", "step", "starts"),
    [(7, 8, [0]), (3, 8, [0]), (8, 8, [0]), (9, 8, [0, 2]), (15, 8, [0, 8]), (16, 8, [0, 8]), (17, 8, [0, 8, 10])],
)
def test_the_last_window_ends_with_the_video(model, frames, step, starts):
    assert Step(frames=step).starts(frames, 25.0, model.settings.data).tolist() == starts


@pytest.mark.parametrize(("short", "windows"), [("loop", 1), ("pad", 1), ("drop", 0)])
def test_short_videos_are_what_the_settings_make_of_them(model, videos, short, windows):
    data = dataclasses.replace(model.settings.data, short_videos=short, num_frames=32)
    one = dataclasses.replace(videos, videos=videos.videos[:1])
    (piece,) = video_windows.read_windows(one, data, Step())
    assert len(piece.pixels) == windows and piece.is_last
    if short == "pad":
        np.testing.assert_array_equal(piece.pixels[0, 20:], np.repeat(piece.pixels[0, 20:21], 12, axis=0))
        assert piece.seconds.tolist() == [[0, 1.6]]
    assert ("too short: 40 frames, a sample spans 63" == piece.reason) == (short == "drop")


def test_damaged_videos_cost_themselves_and_half_damaged_ones_what_is_damaged(model, videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    good = videos.root / videos.videos[0].path
    shutil.copy(good, folder / "b.avi")
    (folder / "a.mp4").write_bytes(b"no video at all")
    shutil.copy(pathlib.Path(__file__).parent.parent / "clips" / "decord_corrupted.mp4", folder / "c.mp4")
    dataset = video_windows.find_videos(str(folder), model.settings.data)
    found, arrays = extract(model, dataset, tmp_path / "f.npz")
    assert set(arrays["path"]) >= {"b.avi"} and "a.mp4" not in arrays["path"] and found.lost >= 1
    assert found.damaged[0].video == 0 and "unreadable" in found.damaged[0].reason
    (folder / "b.avi").unlink()
    (folder / "c.mp4").unlink()
    with pytest.raises(DataError, match="none of 1 videos can be read; a.mp4: unreadable"):
        extract(model, video_windows.find_videos(str(folder), model.settings.data), tmp_path / "g.npz")
    assert not list(tmp_path.glob("g.npz*"))


def test_an_interrupted_extraction_goes_on(model, videos, tmp_path):
    _, whole = extract(model, videos, tmp_path / "whole.npz")
    seen = []

    def stop(done, windows):
        seen.append(done)
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, videos, tmp_path / "f.npz", on_progress=stop)
    with (tmp_path / "f.npz.parts" / "clip").open("ab") as file:
        file.write(b"torn")  # rows of a video that was not done
    found, arrays = extract(model, videos, tmp_path / "f.npz")
    assert found.resumed == seen[-1] < len(videos)
    for name, values in whole.items():
        np.testing.assert_array_equal(arrays[name], values)
    assert not (tmp_path / "f.npz.parts").exists()


@pytest.mark.parametrize("damage", [b'{"x": 1}\n', b"[3, 1\n", b'[2, -1, 0, ""]\n', b"\xff\n", b"7\n"])
def test_a_damaged_journal_is_believed_up_to_the_damage(tmp_path, damage):
    with FeatureFile(tmp_path / "f.npz", {"clip": 2}, {}) as file:
        for number in range(2):
            file.append(np.array([number]), np.zeros((1, 2)), {"clip": np.ones((1, 2))})
            file.finish_video(Done(number, 1, 0, ""))
    with (tmp_path / "f.npz.parts" / "journal.jsonl").open("ab") as journal:
        journal.write(damage)
    with FeatureFile(tmp_path / "f.npz", {"clip": 2}, {}) as file:
        assert len(file.done) == len(file) == (0 if damage[0] == 0xFF else 2)


def test_one_file_is_written_by_one_process(tmp_path):
    with FeatureFile(tmp_path / "f.npz", {"clip": 2}, {"model": "a"}) as file:
        with pytest.raises(SettingsError, match=r"f.npz.parts: another process is at work there"):
            FeatureFile(tmp_path / "f.npz", {"clip": 2}, {"model": "b"})
        file.discard()
    (tmp_path / "g.npz").mkdir()
    with pytest.raises(SettingsError, match=r"g.npz is a folder"):
        FeatureFile(tmp_path / "g.npz", {"clip": 2}, {})


def test_parquet_holds_the_same(model, videos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, arrays = extract(model, videos, tmp_path / "f.npz")
    options = {"levels": LEVELS, "batch_size": 8, "on_progress": lambda *_: None}
    extraction.extract(model, videos, str(tmp_path / "f.parquet"), step=Step(), **options)
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == list(arrays)
    assert table["path"].to_pylist() == arrays["path"].tolist()
    np.testing.assert_array_equal(np.array(table["clip"].to_pylist(), np.float32), arrays["clip"])


def test_parquet_without_pyarrow_is_one_line(monkeypatch, tmp_path):
    from hvt_jax.tools import feature_files

    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"needs pyarrow: pip install 'hvt-jax\[parquet\]'"):
        feature_files.check_path(tmp_path / "f.parquet")
    with pytest.raises(SettingsError, match="unknown ending"):
        feature_files.check_path(tmp_path / "f.csv")


def test_lists_with_and_without_labels(model, videos, tmp_path):
    data, names = model.settings.data, [video.path for video in videos.videos[:3]]
    for content, labels in {
        "\n".join(names): {},
        "path\n" + "\n".join(names): {},
        "\n".join(f"{name},{place % 2}" for place, name in enumerate(names)): {"class": ("0", "1")},
    }.items():
        (tmp_path / "list.csv").write_text(content)
        found = video_windows.find_videos(str(tmp_path / "list.csv"), data, root=str(videos.root))
        assert [video.path for video in found.videos] == names and found.label_names == labels
    (tmp_path / "list.csv").write_text(f"{names[0]}\n../outside.avi\n")
    with pytest.raises(DataError, match="row 2: '../outside.avi' leads out"):
        video_windows.find_videos(str(tmp_path / "list.csv"), data, root=str(videos.root))


def test_refusals(model, tmp_path):
    for text in ("0", "-3", "0s", "fast", "1e9s", "nans"):
        with pytest.raises(DataError, match="must be frames such as 16, or seconds"):
            video_windows.parse_step(text)
    with pytest.raises(DataError, match="no such folder or list"):
        video_windows.find_videos(str(tmp_path / "nowhere"), model.settings.data)
    with pytest.raises(DataError, match="no video there"):
        video_windows.find_videos(str(tmp_path), model.settings.data)
