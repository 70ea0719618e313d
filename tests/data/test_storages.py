"""Every storage gives the clips that the videos themselves give, and whatever is wrong with it is named."""

import dataclasses
import itertools
import json
import os
import pathlib
import pickle

import av
import h5py
import numpy as np
import painted_videos
import pytest

from hvt_jax.data import decode, encode, images, pipeline, storages
from hvt_jax.data.containers import Problem, VideoError
from hvt_jax.data.sources import DataError, Dataset, Video
from hvt_jax.data.storages import array_record, hdf5

_CLIPS = pathlib.Path(__file__).parents[1] / "clips"
_SIZE = (48, 64)  # pixels; what is stored
_OPTIONS = storages.WriteOptions(sync=False)


def _psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three videos of 40, 12 and 1 frames with shapes in motion, their stored frames and their data set."""
    root, frames = tmp_path_factory.mktemp("source"), {}
    rows, columns = np.mgrid[:96, :128]
    for number, (name, count) in enumerate({"a/one.avi": 40, "a/two v.mp4": 12, "b/three.mkv": 1}.items()):
        waves = [np.stack([rows + 2 * t, columns - 3 * t, rows - columns + 40 * number], -1) for t in range(count)]
        video = (127 + 120 * np.sin(np.stack(waves) / 18)).astype(np.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        container, codec = {"avi": ("avi", "mpeg4"), "mp4": ("mp4", "libx264"), "mkv": ("matroska", "libx264")}[
            name[-3:]
        ]
        painted_videos.write_video(root / name, list(video), container, codec, {"g": "12", "b": "4M"})
        frames[name] = decode.decode_frames(root / name, np.arange(count), *_SIZE)
    videos = tuple(Video(name, (0,)) for name in frames)
    return Dataset(root, videos, {"class": ("any",)}), frames


def _encoded(frames, kind):
    for path, video in frames.items():
        head = dict(path=path, num_frames=len(video), fps=25.0, height=_SIZE[0], width=_SIZE[1])
        if kind == "mp4":
            yield storages.EncodedVideo(**head, mp4=encode.encode_mp4(video, 25.0, 8, 12))
        else:
            yield storages.EncodedVideo(**head, jpegs=encode.encode_jpegs(video, 95))


def _write(kind, root, frames):
    """Write two shards of one of the storages, with the others' layouts as users have them; return its name."""
    if kind in ("hdf5_pixels", "hdf5_vlen", "hdf5_padded", "hdf5_own_file"):
        for path, video in frames.items():
            stem = path.rpartition(".")[0]
            jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in encode.encode_jpegs(video, 95)]
            (root / stem).parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(root / (f"{stem}.h5" if kind == "hdf5_own_file" else "all.hdf5"), "a") as file:
                if kind == "hdf5_vlen":
                    data = file.create_dataset(stem, (len(video),), h5py.vlen_dtype(np.uint8))
                    for number, jpeg in enumerate(jpegs):
                        data[number] = jpeg
                elif kind == "hdf5_padded":
                    longest = max(map(len, jpegs))
                    file[path] = np.stack([np.pad(jpeg, (0, longest - len(jpeg))) for jpeg in jpegs])
                else:
                    file["frames" if kind == "hdf5_own_file" else path] = video
        return "hdf5"
    storage = "array_record" if kind == "mp4" else kind
    encoded = list(_encoded(frames, kind))
    for number, part in enumerate((encoded[:2], encoded[2:])):
        shard = storages.shard_path(storage, root, number, 2)
        summary = storages.write_shard(storage, shard, part, _OPTIONS)
        assert summary.paths == tuple(video.path for video in part)
        assert summary.num_frames == sum(video.num_frames for video in part)
    return storage


_KINDS = ["frames", "hdf5", "array_record", "mp4", "hdf5_pixels", "hdf5_vlen", "hdf5_padded", "hdf5_own_file"]
_LOSSLESS = {"hdf5_pixels", "hdf5_own_file"}


@pytest.fixture
def stored(source, data_settings, tmp_path):
    """Return a function that writes the videos in a storage and opens it."""

    def make(kind):
        dataset, frames = source
        root = tmp_path / kind
        root.mkdir()
        settings = dataclasses.replace(data_settings, storage=_write(kind, root, frames), storage_root=str(root))
        return storages.open_storage(settings, dataset), settings, root

    return make


@pytest.mark.parametrize("kind", _KINDS)
def test_all_storages_give_the_same_clips(stored, source, kind):
    storage, _, _ = stored(kind)
    dataset, frames = source
    rng = np.random.default_rng(0)
    for video in dataset.videos:
        count = len(frames[video.path])
        with storage.open_video(video) as reader:
            assert (reader.info.num_frames, reader.info.height, reader.info.width) == (count, *_SIZE)
            for _ in range(5):
                indices = rng.integers(0, count, 7)
                clip = reader.read(indices, *_SIZE)
                wanted = frames[video.path][indices]
                assert clip.dtype == np.uint8 and clip.shape == wanted.shape
                if kind in _LOSSLESS:
                    np.testing.assert_array_equal(clip, wanted)
                else:
                    assert _psnr(clip, wanted) > 33
            # Of another shape, cut in the centre like the videos themselves.
            square, raw = reader.read([0], 32, 32), decode.decode_frames(dataset.root / video.path, [0], 32, 32)
            assert _psnr(square, raw) > 28


@pytest.mark.parametrize("kind", _KINDS)
def test_batches_from_every_storage_are_those_of_the_videos(stored, source, kind):
    _, settings, _ = stored(kind)
    settings = dataclasses.replace(settings, height=_SIZE[0], width=_SIZE[1])
    raw = dataclasses.replace(settings, storage="raw", storage_root="")
    for options in ({}, {"short_videos": "drop"}):
        ours, theirs = (dataclasses.replace(each, **options) for each in (settings, raw))
        batch, expected = (
            next(pipeline.train_batches(source[0], each, batch_size=2, seed=0, start_step=1)) for each in (ours, theirs)
        )
        for name in batch.keys() - {"video"}:
            np.testing.assert_array_equal(batch[name], expected[name])
        assert batch["valid"].all()
        if kind in _LOSSLESS:
            np.testing.assert_array_equal(batch["video"], expected["video"])
        else:
            assert _psnr(batch["video"], expected["video"]) > 33
