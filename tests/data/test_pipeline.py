"""Batches are a function of seed and step alone; damaged videos are masked and named, never fatal."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hvt_jax.data import catalog, pipeline, quarantine, sampling
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import Problem
from tests.data import painted_videos, read_videos


@pytest.fixture
def train(data_settings):
    return catalog.load_dataset(data_settings, "train")


def _take(count, dataset, settings, **options):
    batches = pipeline.train_batches(dataset, settings, **{"batch_size": 8, "seed": 5, "start_step": 0, **options})
    return [next(batches) for _ in range(count)]


def _assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_batch_is_what_it_says(train, data_settings):
    settings = dataclasses.replace(data_settings, height=24, width=40, resize_margin=1.25)
    (batch,) = _take(1, train, settings)
    kinds = {name: (array.shape, str(array.dtype)) for name, array in batch.items()}
    column = {
        "label": "int32",
        "index": "int32",
        "start": "int32",
        "frames": "int32",
        "valid": "bool",
        "problem": "int8",
    }
    assert kinds.pop("frame_valid") == ((8, 4), "bool") and batch["frame_valid"].all()
    assert kinds.pop("reason") == ((8, 200), "uint8") and not batch["reason"].any()
    assert kinds == {"video": ((8, 4, 30, 50, 3), "uint8"), **{name: ((8,), kind) for name, kind in column.items()}}
    assert batch["valid"].all() and not batch["problem"].any() and (batch["frames"] == 4).all()
    for video, label, index, start in zip(*(batch[n] for n in ("video", "label", "index", "start")), strict=True):
        assert label == train.labels["motion"][index]
        path = train.root / train.videos[index].path
        np.testing.assert_array_equal(video, read_videos.decode_frames(path, start + 2 * np.arange(4), 30, 50))
        assert start % settings.window_step == 0 and start + 7 <= 40


def test_every_epoch_shows_every_video_once_in_a_new_order_and_elsewhere(train, data_settings):
    assert pipeline.steps_per_epoch(train, data_settings, 8) == 4
    batches = _take(12, train, data_settings)
    orders = [np.concatenate([batch["index"] for batch in batches[epoch : epoch + 4]]) for epoch in (0, 4, 8)]
    starts = [np.concatenate([batch["start"] for batch in batches[epoch : epoch + 4]]) for epoch in (0, 4, 8)]
    for order in orders:
        assert sorted(order) == list(range(32))
    assert len({tuple(order) for order in orders}) == 3
    by_video = np.array([start[np.argsort(order)] for order, start in zip(orders, starts, strict=True)])
    assert (by_video.std(0) > 0).mean() > 0.7 and set(by_video.ravel()) <= set(range(0, 33, 4))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batch_of_one_host(train, data_settings, hosts):
    alone = _take(5, train, data_settings)
    together = [_take(5, train, data_settings, host=host, hosts=hosts) for host in range(hosts)]
    for step, batch in enumerate(alone):
        for name, whole in batch.items():
            # Host after host, as the global array is put together.
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in together]), whole)


def test_start_step_skips_and_seeds_differ(train, data_settings):
    batches = _take(9, train, data_settings)
    _assert_equal(_take(3, train, data_settings, start_step=6), batches[6:])
    (other,) = _take(1, train, data_settings, seed=6)
    assert other["index"].tolist() != batches[0]["index"].tolist()


def test_processes_and_threads_change_nothing(train, data_settings):
    alone = _take(6, train, data_settings, start_step=2)
    _assert_equal(_take(6, train, dataclasses.replace(data_settings, num_workers=2), start_step=2), alone)
    _assert_equal(_take(6, train, dataclasses.replace(data_settings, read_threads=3), start_step=2), alone)


def test_several_windows_of_a_video_are_different_ones(train, data_settings):
    settings = dataclasses.replace(data_settings, max_windows_per_video=3)
    assert pipeline.steps_per_epoch(train, settings, 8) == 12
    batches = _take(12, train, settings)
    index, start = (np.concatenate([batch[name] for batch in batches]) for name in ("index", "start"))
    for video in range(32):
        assert len(set(start[index == video])) == 3


def test_all_windows_of_all_videos(train, data_settings):
    settings = dataclasses.replace(data_settings, max_windows_per_video=0, window_step=8)
    assert pipeline.steps_per_epoch(train, settings, 8) == 32 * 5 // 8
    batches = _take(20, train, settings)
    seen = {(int(i), int(s)) for batch in batches for i, s in zip(batch["index"], batch["start"], strict=True)}
    assert seen == {(video, start) for video in range(32) for start in range(0, 33, 8)}


def test_short_videos_are_looped_or_left_out(train, data_settings, tmp_path):
    video = train.videos[0]
    clip = read_videos.decode_frames(train.root / video.path, np.arange(5), 64, 64)
    painted_videos.write_video(tmp_path / "short.mp4", clip, "mp4", "libx264")
    os.symlink(train.root / video.path, tmp_path / "long.avi")
    dataset = Dataset(tmp_path, (Video("short.mp4", (0,)), Video("long.avi", (1,))), {"class": ("a", "b")})
    (batch,) = _take(1, dataset, data_settings, batch_size=2)
    place = int(np.flatnonzero(batch["index"] == 0)[0])
    assert batch["valid"].all() and batch["start"][place] == 0
    looped = read_videos.decode_frames(tmp_path / "short.mp4", [0, 2, 4, 1], 32, 32)
    np.testing.assert_array_equal(batch["video"][place], looped)
    padding = dataclasses.replace(data_settings, short_videos="pad")
    (batch,) = _take(1, dataset, padding, batch_size=2)
    place = int(np.flatnonzero(batch["index"] == 0)[0])
    assert batch["frame_valid"][place].tolist() == [True, True, True, False] and batch["frame_valid"][1 - place].all()
    np.testing.assert_array_equal(batch["video"][place, 3], batch["video"][place, 2])
    dropping = dataclasses.replace(data_settings, short_videos="drop")
    assert pipeline.steps_per_epoch(dataset, dropping, 1) == 1
    assert all(set(batch["index"]) == {1} for batch in _take(4, dataset, dropping, batch_size=2))
    (batch,) = pipeline.evaluation_batches(dataset, dropping, batch_size=2)
    assert batch["valid"].tolist() == [False, True] and batch["problem"][0] == Problem.TOO_SHORT
    only_short = Dataset(tmp_path, dataset.videos[:1], dataset.label_names)
    with pytest.raises(DataError, match="none of 1 videos has the 7 frames"):
        _take(1, only_short, dropping)


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_shows_the_centre_of_every_video_once_and_pads(data_settings, hosts):
    test = catalog.load_dataset(data_settings, "test")
    for batch_size in (16, 6):
        batches = [
            batch
            for host in range(hosts)
            for batch in pipeline.evaluation_batches(test, data_settings, batch_size=batch_size, host=host, hosts=hosts)
        ]
        assert len(batches) == hosts * -(-16 // batch_size)
        assert {len(batch["index"]) for batch in batches} == {batch_size // hosts}
        index, valid, start = (
            np.concatenate([batch[name] for batch in batches]) for name in ("index", "valid", "start")
        )
        assert sorted(index[valid]) == list(range(16)) and (index[~valid] == -1).all()
        assert (start[valid] == sampling.center_start(40, 7)).all()


def test_damaged_videos_are_masked_and_named(data_settings, train, tmp_path):
    good = (train.root / train.videos[0].path).read_bytes()
    contents = {"good.avi": good, "half.avi": good[: len(good) // 2], "empty.avi": b"", "text.mp4": b"text" * 99}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    videos = tuple(Video(name, (3,)) for name in (*contents, "missing.avi"))
    dataset = Dataset(tmp_path, videos, {"class": tuple("abcd")})
    (batch,) = pipeline.evaluation_batches(dataset, data_settings, batch_size=6)
    assert batch["valid"].tolist() == [True] + [False] * 5
    kinds = [Problem.OK, Problem.TOO_FEW_FRAMES, Problem.EMPTY, Problem.UNREADABLE, Problem.MISSING, Problem.OK]
    assert batch["problem"].tolist() == kinds
    assert batch["video"][0].any() and not batch["video"][1:].any() and batch["label"].tolist() == [3] * 5 + [-1]
    lines = [str(video) for video in quarantine.find_bad(dataset, batch, 0)]
    assert lines == [
        "half.avi: too few frames (15 could be read): truncated: 15 of 40 frames",
        "empty.avi: empty: the file has 0 bytes",
        "text.mp4: unreadable: cannot be decoded (Invalid data found when processing input)",
        "missing.avi: missing: no such file",
    ]
    (batch,) = _take(1, dataset, data_settings, batch_size=5)
    assert sorted(batch["problem"]) == sorted(kinds[:5]) and batch["valid"].sum() == 1
    settings = dataclasses.replace(data_settings, max_windows_per_video=0)
    assert pipeline.steps_per_epoch(dataset, settings, 1) == sampling.count_windows(40, 7, 4)


def test_a_batch_that_hosts_cannot_share(train, data_settings):
    with pytest.raises(ValueError, match="batch of 8 cannot be shared by 3 hosts"):
        _take(1, train, data_settings, hosts=3)


def test_nothing_but_grain_brings_jax():
    modules = "data.catalog data.decode tools.digits_files data.storages data.parallel".split()
    code = "; ".join(f"import hvt_jax.{name}" for name in modules)
    code += "; import sys; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


_TRAINER = """
import dataclasses, sys, time, multiprocessing
from configs import default
from hvt_jax import settings
from hvt_jax.data import catalog, pipeline
if __name__ == "__main__":
    data = settings.read_settings(default.get_config()).data
    data = dataclasses.replace(data, root=sys.argv[1], num_workers=2)
    batches = pipeline.train_batches(catalog.load_dataset(data, "train"), data, batch_size=8, seed=0, start_step=0)
    for _ in range(int(sys.argv[2])):
        next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie is dead, only nobody has buried it
    except OSError:
        return False


def test_workers_leave_signals_to_the_trainer_and_their_death_is_told(train, data_settings):
    settings = dataclasses.replace(data_settings, num_workers=1, prefetch_batches=1)
    batches = pipeline.train_batches(train, settings, batch_size=8, seed=5, start_step=0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    for _ in range(4):
        next(batches)
    worker.kill()
    with pytest.raises(DataError, match="a decoding process ended with -9 .*hvt_jax scan"):
        for _ in range(9):
            next(batches)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="looks at names in /dev/shm")
def test_nothing_of_workers_is_left_in_shared_memory(train, data_settings):
    """Not even of batches that somebody still holds, or that nobody has seen; what is in them stays.

    Batches of so many that what is said of each row would have shared memory of its own by Grain, too.
    """
    settings = dataclasses.replace(data_settings, num_workers=1, prefetch_batches=1, num_frames=1)
    options = {"batch_size": 336, "seed": 5, "start_step": 0}
    others = set(os.listdir("/dev/shm"))
    batches = pipeline.train_batches(train, settings, **options)
    held = [next(batches)]
    owners = [child.pid for child in multiprocessing.active_children()]
    batches.close()
    batches.close()
    left = set(os.listdir("/dev/shm")) - others
    assert len(owners) == 1 and not [n for n in left if n.startswith(tuple(f"hvt_{owner}_" for owner in owners))]
    assert {type(array) for batch in held for array in batch.values()} == {np.ndarray}
    _assert_equal(held, _take(1, train, dataclasses.replace(settings, num_workers=0), **options))


def test_memory_of_batches_is_used_again(train, data_settings):
    """And not before its user is done: what is read from it is that of threads."""
    settings = dataclasses.replace(data_settings, num_workers=1, prefetch_batches=1)
    steps = pipeline.train_batches(train, settings, batch_size=8, seed=5, start_step=0)
    found = [{name: np.array(value) for name, value in next(steps).items()} for _ in range(16)]
    assert len(steps._desk._mapped) < 8
    steps.close()
    _assert_equal(found, _take(16, train, data_settings))


def test_a_process_that_has_ended_takes_no_batch_with_it(train, data_settings, monkeypatch):
    """Its last one waits here, long after it has ended, for a trainer that takes its time."""
    monkeypatch.setattr(pipeline, "_WORKERS_PAY", 0)
    settings = dataclasses.replace(data_settings, num_workers=1, prefetch_batches=1)
    dataset = dataclasses.replace(train, videos=train.videos[:20])
    batches = pipeline.evaluation_batches(dataset, settings, batch_size=8)
    found = [next(batches)]
    (worker,) = multiprocessing.active_children()
    found.append(next(batches))
    worker.join(60)
    assert not worker.is_alive()
    found += list(batches)
    _assert_equal(found, list(pipeline.evaluation_batches(dataset, data_settings, batch_size=8)))


class _Failing(pipeline.grain.MapDataset):
    """Batches the third of which cannot be made."""

    def __len__(self):
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        if index == 2:
            raise DataError("shared memory is full")
        return self._parent[index]


def test_why_a_process_cannot_go_on_is_told_after_what_it_has_made(train, data_settings):
    steps = _Failing(pipeline.training_map(train, data_settings, batch_size=8, seed=5, in_workers=True))
    batches = pipeline._start(steps, data_settings, 1, 1, 1)
    found = [next(batches)]
    time.sleep(1)
    found.append(next(batches))
    with pytest.raises(DataError, match="shared memory is full"):
        next(batches)
    _assert_equal(found, _take(2, train, data_settings))


def test_too_few_open_files_are_refused_before_anything_starts(train, data_settings, monkeypatch):
    settings = dataclasses.replace(data_settings, num_workers=2)
    monkeypatch.setattr(pipeline.usage, "allow_open_files", lambda needed: needed - 1)
    with pytest.raises(
        DataError, match="only 99 files may be open, and 2 decoding processes need some 100; raise the limit"
    ):
        _take(1, train, settings)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("batches", "seconds"), [(3, 10), (1, 60)], ids=["at work", "one still imports"])
def test_workers_die_with_a_killed_trainer(digits_root, tmp_path, batches, seconds):
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), str(digits_root), str(batches)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_alive, workers))
        os.kill(trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(_alive, workers)):
        time.sleep(0.2)
    assert not any(map(_alive, workers))
