"""Clips are decoded into their rows; what is shared between processes is freed by exactly one of them."""

import dataclasses
import threading
import time
from multiprocessing import shared_memory

import numpy as np
import pytest

from hvt_jax.data import catalog, clip_batches, decode, parallel, pipeline
from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem


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
    monkeypatch.setattr(
        clip_batches, "_new_array", lambda shape: np.full(shape, 9, np.uint8)
    )  # room is not empty when it is given
    videos = (train.videos[0], train.videos[1], Video("no/such.avi", (0,)))
    dataset = dataclasses.replace(train, videos=videos)
    batch = pipeline.training_map(dataset, data_settings, batch_size=3, seed=0)[0]
    rows = {int(number): row for row, number in enumerate(batch["index"])}
    first, second = sorted((rows[0], rows[1]))
    assert batch["problem"][rows[2]] == Problem.MISSING
    assert list(batch["valid"][[first, second, rows[2]]]) == [False, True, False]
    assert not batch["video"][[first, rows[2]]].any() and batch["video"][second].any()
    assert not batch["frame_valid"][[first, rows[2]]].any()


def test_shared_pixels_are_freed_by_the_trainer_or_by_the_worker(monkeypatch):
    assert not isinstance(clip_batches._new_array((2, 3)), clip_batches._SharedArray)
    monkeypatch.setattr(parallel, "_is_worker", True)
    kept, handed_over = clip_batches._new_array((2, 3)), clip_batches._new_array((4, 5))
    handed_over[...] = 6
    names = kept.shm.name, handed_over.metadata.name
    del kept, handed_over
    with pytest.raises(FileNotFoundError):
        for _ in range(1000):  # a loader of another test may have told Grain to free memory in a thread
            shared_memory.SharedMemory(names[0]).close()
            time.sleep(0.01)
    memory = shared_memory.SharedMemory(names[1])
    assert bytes(memory.buf[:20]) == bytes([6] * 20)
    memory.close()
    memory.unlink()
