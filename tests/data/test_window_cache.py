"""Windows kept in memory: the same batches as without, and no file is opened twice for them."""

import contextlib
import dataclasses
import pickle

import numpy as np
import pytest

from hvt_jax.data import catalog, pipeline, storages


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
