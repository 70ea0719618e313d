"""The cache of features: whole or not at all, rows of readable videos only, another hash for other videos."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import pack_reason
from hvt_jax.tools import feature_cache

VIDEOS = 7
DATASET = Dataset(
    pathlib.Path("nowhere"), tuple(Video(f"{number}.mp4", (0,)) for number in range(VIDEOS)), {"a": ("b",)}
)


def _batches(bad=()):
    """Yield batches of 4, the last one padded; a video's pixel is its number."""
    for start in (0, 4):
        index = np.array([number if number < VIDEOS else -1 for number in range(start, start + 4)], np.int32)
        reason = np.stack([pack_reason("torn" if number in bad else "") for number in index])
        valid = (index >= 0) & ~np.isin(index, bad)
        yield {"video": index[:, None].astype(np.uint8), "index": index, "valid": valid, "reason": reason}


def _encode(batch):
    video = batch.pop("video").astype(np.float32)
    return {"frame": video[:, :, None] * np.ones(3, np.float32), "clip": video[:, :, None] + 0.5, **batch}


def _extract(folder, bad=()):
    done = []
    found = feature_cache.extract(folder, _encode, lambda: _batches(bad), DATASET, on_batch=done.append)
    assert sum(done) == VIDEOS
    return found


def test_rows_of_readable_videos_each_once(tmp_path):
    found = _extract(tmp_path / "x", bad=(2, 5))
    assert found.rows.tolist() == [0, 1, 3, 4, 6] and found.bad == {2: "torn", 5: "torn"}
    np.testing.assert_array_equal(found.arrays["frame"][:, 0], found.rows[:, None] * np.ones(3))
    np.testing.assert_array_equal(found.arrays["clip"][:, 0, 0], found.rows + 0.5)
    again = feature_cache.load(tmp_path / "x")
    assert again.bad == found.bad and [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(DataError, match="none of the 7 videos of nowhere can be read; 0.mp4: torn"):
        _extract(tmp_path / "x", bad=tuple(range(VIDEOS)))
    assert feature_cache.load(tmp_path / "x") is not None  # what was there before stays


@pytest.mark.parametrize("damage", ["a bit", "cut", "no manifest", "a pickle", "no rows", "another version"])
def test_what_is_damaged_is_not_used(tmp_path, damage):
    folder = tmp_path / "x"
    _extract(folder)
    array = folder / "frame.npy"
    if damage == "a bit":
        array.write_bytes(array.read_bytes()[:-1] + b"\x01")
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "no rows":
        (folder / "rows.npy").unlink()
    else:
        record = json.loads((folder / "manifest.json").read_text())
        if damage == "another version":
            record["version"] = 0
        else:  # even one whose hash agrees is not opened
            np.save(array, np.array([{}], object), allow_pickle=True)
            record["files"]["frame.npy"] = feature_cache._fingerprint(array)
        (folder / "manifest.json").write_text(json.dumps(record))
    assert feature_cache.load(folder) is None
    assert _extract(folder).rows.tolist() == list(range(VIDEOS))


def test_large_arrays_are_mapped_and_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "IN_MEMORY_BYTES", 200)
    found = _extract(tmp_path / "x", bad=(0,))
    assert isinstance(found.arrays["frame"], np.memmap) and not isinstance(found.arrays["clip"], np.memmap)
    assert len(found.arrays["frame"]) == 6
    usage = dataclasses.make_dataclass("Usage", ["free"])(64)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="frame of 7 videos takes 0.00 MiB, and .* has 0.00 MiB left; choose --levels"):
        _extract(tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_the_room_of_an_array_is_taken_at_once(tmp_path):
    array = feature_cache._new_file(tmp_path / "frame.npy", (1000, 1000))
    assert array.shape == (1000, 1000) and not array.any()
    assert (tmp_path / "frame.npy").stat().st_blocks * 512 >= array.nbytes  # a sparse file would have next to none


def test_other_videos_have_another_identity(tmp_path, data_settings):
    dataset = dataclasses.replace(DATASET, root=tmp_path)
    for video in dataset.videos:
        (tmp_path / video.path).write_bytes(b"1")
    first = feature_cache.identity_of(dataset, data_settings)
    assert first == feature_cache.identity_of(dataset, data_settings)
    (tmp_path / "3.mp4").write_bytes(b"12")
    second = feature_cache.identity_of(dataset, data_settings)
    fewer = dataclasses.replace(dataset, videos=dataset.videos[:-1])
    assert len({first, second, feature_cache.identity_of(fewer, data_settings)}) == 3
    assert feature_cache.key_of({"a": 1}) != feature_cache.key_of({"a": 2})
