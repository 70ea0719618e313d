"""Clips are decoded into their rows, or kept in memory."""

import contextlib
import dataclasses
import pickle
import threading

import numpy as np
import pytest

from hvt_jax.data import catalog, decode, pipeline, readers, shared_arrays, storages
from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem, VideoError


@pytest.fixture
def train(data_settings):
    return catalog.load_dataset(data_settings, "train")


@pytest.mark.parametrize("indices", [[3, 5, 9], [9, 3, 3, 5]])
def test_frames_are_put_where_they_are_wanted(train, indices):
    with decode.VideoReader(train.root / train.videos[0].path, 30.0) as reader:
        wanted = reader.read(indices, 32, 32)
        room = np.full((2, len(indices), 32, 32, 3), 7, np.uint8)
        assert np.shares_memory(reader.read(np.array(indices), 32, 32, room[1]), room)
    np.testing.assert_array_equal(room[1], wanted)
    assert (room[0] == 7).all()


def test_a_row_that_fails_half_way_is_empty(train, data_settings, monkeypatch):
    """Its first frame is written before the second one turns out to be damaged."""
    kept, original, here = [], decode.transforms.fit_frame, threading.get_ident()

    def fit_frame(*arguments):
        kept.append(threading.get_ident() == here)  # loaders of other tests may still be decoding ahead
        if kept[-1] and sum(kept) == 2:
            raise ValueError("damage")
        return original(*arguments)

    monkeypatch.setattr(decode.transforms, "fit_frame", fit_frame)
    # Room is not empty when it is given.
    monkeypatch.setattr(shared_arrays.POOL, "borrow", lambda shape: np.full(shape, 9, np.uint8))
    videos = (train.videos[0], train.videos[1], Video("no/such.avi", (0,)))
    dataset = dataclasses.replace(train, videos=videos)
    batch = pipeline.training_map(dataset, data_settings, batch_size=3, seed=0, in_workers=True)[0]
    rows = {int(number): row for row, number in enumerate(batch["index"])}
    first, second = sorted((rows[0], rows[1]))
    assert batch["problem"][rows[2]] == Problem.MISSING
    assert list(batch["valid"][[first, second, rows[2]]]) == [False, True, False]
    assert not batch["video"][[first, rows[2]]].any() and batch["video"][second].any()
    assert not batch["frame_valid"][[first, rows[2]]].any()


@pytest.mark.parametrize("num_late", [1, 2])
def test_a_video_that_was_late_once_is_not_bad(train, data_settings, monkeypatch, num_late):
    """The process may have been stopped while it was read."""
    late, check, here, path = [], readers.Reader._check_time, threading.get_ident(), train.videos[0].path

    def check_time(reader):
        if threading.get_ident() == here and len(late) < num_late:
            late.append(path)
            raise VideoError(Problem.TIMEOUT, "took longer")
        check(reader)

    monkeypatch.setattr(decode.VideoReader, "_check_time", check_time)
    dataset = dataclasses.replace(train, videos=train.videos[:1])
    for _ in range(2):
        batch = pipeline.training_map(dataset, data_settings, batch_size=1, seed=0)[0]
        assert bool(batch["valid"][0]) == (num_late == 1)
        assert dataset.quarantine == ({} if num_late == 1 else {path: (int(Problem.TIMEOUT), 0)})


@pytest.fixture
def opened(monkeypatch):
    """Paths that are opened, by whether windows are kept."""
    paths, open_video = {True: [], False: []}, storages.open_video

    @contextlib.contextmanager
    def note(dataset, settings, video):
        paths[settings.cache_gib > 0].append(video.path)
        with open_video(dataset, settings, video) as reader:
            yield reader

    monkeypatch.setattr(storages, "open_video", note)
    return paths


def _take(settings, steps, dataset):
    batches = pipeline.train_batches(dataset, settings, batch_size=8, seed=5, start_step=0)
    tests = pipeline.evaluation_batches(dataset, settings, batch_size=8)
    return [next(batches) for _ in range(steps)] + list(tests) + [next(batches) for _ in range(steps)]


@pytest.mark.parametrize("gib", [1.0, 3e-5])
def test_batches_are_those_without_it(data_settings, opened, gib):
    plain = dataclasses.replace(data_settings, short_videos="pad", num_frames=7, frame_stride=6)
    steps = 2 * pipeline.steps_per_epoch(catalog.load_dataset(plain, "train"), plain, 8)
    expected = _take(plain, steps, catalog.load_dataset(plain, "train"))
    kept = dataclasses.replace(plain, cache_gib=gib)
    dataset = catalog.load_dataset(kept, "train")
    found = _take(kept, steps, dataset)
    for one, other in zip(expected, found, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    if gib == 1.0:  # the window of training and that of tests differ; threads may open one at once
        assert len(opened[True]) <= 2 * len(dataset) + 8 * kept.read_threads < len(opened[False])
        (cache,) = dataset.caches.values()
        assert not pickle.loads(pickle.dumps(cache)).lengths  # a decoding process begins with nothing
    else:
        assert len(set(opened[True])) < len(opened[True])
