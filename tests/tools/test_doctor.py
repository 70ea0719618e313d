"""The doctor names what is slow, wherever it is put, and its advice follows from the numbers by rules."""

import dataclasses
import io
import json
import os
import threading
import time
import types

import numpy as np
import pytest
from rich import console

from configs import digits
from hvt_jax.data import catalog, decode, indexing, pipeline, profiling, sampling, storages
from hvt_jax.data.dataset import DataError, Video
from hvt_jax.settings import read_settings
from hvt_jax.tools import bare_decoding, doctor, loader_advice, loader_report, loader_trial
from hvt_jax.tools.bare_decoding import Copy
from hvt_jax.tools.doctor import OneThread, Setting, Trial
from tests import small
from tests.data import read_videos

OPTIONS = {"batch_size": 4, "seed": 0, "seconds": 0.0}
SLOW = 0.03  # seconds that are added to one stage


@pytest.fixture
def train(data_settings):
    return catalog.load_dataset(data_settings, "train")


def _slowed(function):
    def slow(*arguments, **named):
        time.sleep(SLOW)
        return function(*arguments, **named)

    return slow


@pytest.mark.parametrize(
    ("stage", "owner", "name"),
    [
        ("read", decode.containers, "open_file"),
        ("decode", decode, "match"),
        ("resize", decode.transforms, "cover_box"),
        ("sample", sampling, "pick_frames"),
    ],
)
def test_the_slow_stage_is_found(train, data_settings, monkeypatch, stage, owner, name):
    monkeypatch.setattr(owner, name, _slowed(getattr(owner, name)))
    found = doctor.measure_one_thread(train, data_settings, **OPTIONS)
    assert found.seconds[stage] >= SLOW
    assert found.clips == 8 and found.invalid == 0 and found.clips_per_second < 1 / SLOW
    assert _advise(one_thread=found, storage="raw").bottleneck == stage


def test_a_slow_storage_is_called_slow_reading(train, data_settings, monkeypatch):
    class SlowStorage:
        def __init__(self, storage):
            self.storage = storage

        def open_video(self, video):
            time.sleep(SLOW)
            return self.storage.open_video(video)

    storage = SlowStorage(storages.open_storage(data_settings, train))
    monkeypatch.setattr(storages, "open_storage", lambda *_: storage)
    found = doctor.measure_one_thread(train, data_settings, **OPTIONS)
    assert found.seconds["read"] >= SLOW > found.seconds["decode"] + found.seconds["resize"]
    said = _advise(one_thread=found, storage="raw")
    assert said.bottleneck == "read" and any("reading is slow" in line for line in said.lines)


def test_nothing_readable_is_an_error(train, data_settings):
    missing = dataclasses.replace(train, videos=tuple(Video(f"no/{n}.avi", (0,)) for n in range(4)))
    with pytest.raises(DataError, match="none of 8 clips"):
        doctor.measure_one_thread(missing, data_settings, **OPTIONS)
    with pytest.raises(DataError, match="no video could be decoded"):
        bare_decoding.compare(missing, data_settings, seed=0, seconds=0.0)


def test_inner_stages_do_not_count_in_outer_ones(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(profiling, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def work(seconds):
        now[0] += seconds

    @profiling.timed("decode")
    def inner():
        work(2.0)

    @profiling.timed("sample")
    def outer():
        inner()
        work(1.0)
        return list(profiling.timed_items("read", slow_items))

    def slow_items():
        for item in "ab":
            work(0.5)
            yield item

    assert outer() == ["a", "b"]  # nobody watches
    with profiling.watch() as watch:
        other = threading.Thread(target=outer)
        other.start()
        other.join()
        assert not watch.seconds
        assert outer() == ["a", "b"]
        with pytest.raises(RuntimeError), profiling.watch():
            pass
    outer()
    assert watch.seconds == {"decode": 2.0, "sample": 1.0, "read": 1.0}


def _trial(rate, workers, threads=1, ahead=4):
    return Trial(Setting(workers, threads, ahead), 0.5, rate, 100.0, None)


TRIALS = [_trial(50, 1), _trial(40, 0), _trial(96, 2), _trial(97, 2, 1, 2), _trial(100, 4), _trial(99, 2, 2)]


def test_the_smallest_setting_that_is_fast_enough_is_chosen():
    assert loader_advice.choose_trial(TRIALS) == _trial(97, 2, 1, 2)
    assert loader_advice.choose_trial([*TRIALS, _trial(110, 8)]) == _trial(110, 8)
    assert loader_advice.choose_trial(TRIALS, 45) == _trial(50, 1)
    assert loader_advice.choose_trial(TRIALS, 30) == _trial(40, 0)
    assert loader_advice.choose_trial(TRIALS, 1e9) == loader_advice.choose_trial(TRIALS)


def _one_thread(read=1.0, decode=6.0, resize=2.0, cpu_share=1.0):
    """Return a measurement in milliseconds a clip; the rest takes 1."""
    seconds = dict(zip(profiling.STAGES, (read / 1e3, decode / 1e3, resize / 1e3, 0.5e-3, 0.5e-3), strict=True))
    return OneThread(100, seconds, None, 0.0, cpu_share)


def _advise(**changes):
    findings = {
        "storage": "raw",
        "cores": 2,
        "one_thread": _one_thread(),
        "trials": TRIALS,
        "copies": [Copy("jpeg", 2e-3, 9000.0), Copy("mp4", 8.5e-3, 900.0)],
        "batch_size": 32,
        "step_seconds": None,
    }
    return loader_advice.give_advice(loader_advice.Findings(**{**findings, **changes}))


def test_a_longer_step_is_the_bottleneck_and_needs_few_workers():
    said = _advise(step_seconds=1.0)
    assert said.bottleneck == "step" and said.setting == Setting(0, 1, 4)
    assert not any("prepare" in line or "jpeg" in line for line in said.lines)


def test_longer_decoding_names_the_cores_it_would_take():
    said = _advise(step_seconds=0.1)  # 400 clips/s are wanted, a core gives 100
    assert said.bottleneck == "decode" and said.setting == Setting(2, 1, 2)
    (line,) = [line for line in said.lines if "cores" in line]
    assert "400 clips/s, 4 cores" in line and "2 give 100 clips/s" in line


def test_a_copy_is_recommended_only_where_it_pays():
    (line,) = [line for line in _advise().lines if "training size" in line]
    assert "as jpeg" in line and "3.3 times" in line  # (9 + 1) / (2 + 1)
    assert not any("as jpeg" in line for line in _advise(storage="frames").lines)
    assert any("keep data.storage=raw" in line for line in _advise(copies=[Copy("mp4", 8e-3, 1.0)]).lines)


def test_a_busy_machine_is_named():
    assert not any("busy" in line or "quiet" in line for line in _advise().lines)
    assert "30% of a core" in _advise(one_thread=_one_thread(cpu_share=0.3)).lines[0]


@pytest.mark.parametrize("cores", [1, 2, 16, 200])
def test_the_settings_tried_fit_the_cores(cores):
    tried = doctor.sweep_settings(cores, Setting(3, 2, 6))
    assert tried[0] == Setting(3, 2, 6) and len(set(tried)) == len(tried) <= 12
    assert any(setting.num_workers == 0 for setting in tried)
    assert all(setting.num_workers <= min(max(cores, 3), 64) and setting.prefetch_batches >= 1 for setting in tried)


def test_a_trial_takes_real_batches_and_closes_the_loader(train, data_settings, monkeypatch):
    opened, start = [], pipeline.train_batches

    def train_batches(*arguments, **named):
        opened.append(start(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(pipeline, "train_batches", train_batches)
    trial = doctor.try_setting(train, data_settings, Setting(0, 2, 3), **OPTIONS)
    assert trial.cpu_seconds is None or 0 < trial.cpu_seconds < 60
    assert trial.clips_per_second > 0 and trial.first_batch_seconds > 0
    with pytest.raises(ValueError, match="closed"):
        next(opened[0])


def test_the_bare_loop_decodes_the_same_frames(train, data_settings, tmp_path):
    path = str(train.root / train.videos[0].path)
    indices = np.array([4, 6, 11, 30])
    clip = bare_decoding.Clip(path, indices, 32, 48)
    wanted = read_videos.decode_frames(path, indices, 32, 48)
    np.testing.assert_array_equal(bare_decoding.decode_bare(clip), wanted)
    jpegs = bare_decoding.encode.encode_jpegs(read_videos.decode_frames(path, indices, 64, 64), 90)
    video = storages.EncodedVideo("a", 4, 25.0, 64, 64, jpegs)
    storages.write_shard("hdf5", tmp_path / "shard-00000-of-00001.h5", [video], sync=False)
    settings = dataclasses.replace(data_settings, storage="hdf5", storage_root=str(tmp_path))
    with storages.open_storage(settings, train).open_video(Video("a", (0,))) as reader:
        stored = reader.fetch(np.arange(4))
        assert stored == jpegs
        np.testing.assert_array_equal(
            bare_decoding.decode_bare(bare_decoding.Clip(stored, indices, 32, 48)), reader.read(np.arange(4), 32, 48)
        )


def test_a_file_is_listed_once_until_it_changes(train, tmp_path, monkeypatch):
    listed, original = [], indexing.index_packets
    monkeypatch.setattr(indexing, "index_packets", lambda *given: listed.append(1) or original(*given))
    path = tmp_path / "a.avi"
    for video, times in ((0, 1), (1, 2)):
        path.unlink(missing_ok=True)
        path.write_bytes((train.root / train.videos[video].path).read_bytes())
        clips = [read_videos.decode_frames(path, np.array([7, 3]), 32, 32) for _ in range(3)]
        assert len(listed) == times
        wanted = read_videos.decode_frames(
            (train.root / train.videos[video].path).read_bytes(), np.array([7, 3]), 32, 32
        )
        assert all((clip == wanted).all() for clip in clips)
        listed.pop()  # of the bytes, which are never remembered


def test_the_whole_examination(digits_root, monkeypatch, tmp_path):
    """With a training step, on threads alone: processes take seconds to start."""
    monkeypatch.setattr(doctor, "sweep_settings", lambda cores, present: [present, Setting(0, 1, 1)])
    fields = {"data.root": str(digits_root), "data.num_frames": 4, "data.height": 32, "data.width": 32}
    settings = read_settings(
        small.small_config(
            digits.get_config(),
            **fields,
            **{"model.stem.patch_size": 16, "model.hierarchy": "frame-clip", "model.num_clips": 1},
        )
    )
    dataset, said = catalog.load_dataset(settings.data, "train"), []
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    report = loader_trial.examine(settings, dataset, batches=4, seconds=0.05, with_step=True, note=said.append)
    assert said[0] == "one thread" and "setting 2 of 2" in said
    assert 0 < report.device.augment and 0 < report.device.step < report.device.compile
    assert report.device.loop_batches >= 2 and 0 < report.device.loop_wait < report.device.loop_step
    if files is not None:
        assert report.memory_mb[0] > 1 and report.open_files[0] == files
        assert report.findings.one_thread.bytes_read > 0
    written = io.StringIO()
    loader_report.print_report(report, console.Console(file=written, width=150))
    for word in ("decode", "transfer to the device", "bare decoding", "chosen", "prefetch_batches", "data.num_workers"):
        assert word in written.getvalue()
    loader_report.write_json(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["findings"]["batch_size"] == 4
