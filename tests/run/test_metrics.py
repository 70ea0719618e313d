"""Numbers reach every sink, and a resumed run's files read like an uninterrupted run's."""

import io
import json
import math
import struct
import sys
import time
import types

import jax
import numpy as np
import pytest
import rich.console
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from hvt_jax.run.metrics import MetricsError, MetricWriter, Throughput, read_metrics
from hvt_jax.settings import LoggingSettings

PLAIN = LoggingSettings(interval_steps=10, tensorboard=False, wandb=False, wandb_project="test")
TENSORBOARD = LoggingSettings(interval_steps=10, tensorboard=True, wandb=False, wandb_project="test")
WANDB = LoggingSettings(interval_steps=10, tensorboard=False, wandb=True, wandb_project="test")


def console(terminal):
    return rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def train(folder, steps, settings=PLAIN, **options):
    with MetricWriter(folder, settings, **options) as writer:
        for step in steps:
            writer.write(step, {"train/frame->clip/up": np.float32(1 / (step + 1)), "knn/frame/top1": step / 100})


def test_resumed_file_reads_like_an_uninterrupted_one(tmp_path):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole", range(20))
    train(tmp_path / "resumed", range(13))
    with open(tmp_path / "resumed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "train/fr')
    train(tmp_path / "resumed", range(9, 20), restored_step=8)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "resumed")]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 20


def test_non_finite_values_stay_valid_json(tmp_path):
    with MetricWriter(tmp_path, PLAIN) as writer:
        writer.write(np.int64(1), {"a": math.nan, "b": math.inf, "c": np.float32(-math.inf), "d": jax.numpy.ones(())})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": 1.0}
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"]) and record["b"] == math.inf and record["c"] == -math.inf


def test_lines_can_be_read_while_the_run_goes_on(tmp_path):
    with MetricWriter(tmp_path, PLAIN) as writer:
        writer.write(1, {"a": 1.0})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


def test_damage_but_at_the_end_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(MetricsError, match="line 2 is damaged"):
        read_metrics(path)
    with pytest.raises(MetricsError, match="line 2 is damaged"):
        MetricWriter(tmp_path, PLAIN, restored_step=3)
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n\0\0\0\xff')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_plain_lines_off_a_terminal(tmp_path):
    screen = console(terminal=False)
    with MetricWriter(tmp_path, PLAIN, console=screen) as writer:
        writer.note("2 devices [cpu]")
        writer.progress(120, 2000, loss=0.43124, clips_per_second=312.4, eta_seconds=192.2)
        writer.progress(130, 2000, loss=math.nan, clips_per_second=None, eta_seconds=None)
    assert screen.file.getvalue().splitlines() == [
        "2 devices [cpu]",
        "step 120/2000  loss 0.4312  312 clips/s  ETA 0:03:12",
        "step 130/2000  loss nan  -- clips/s  ETA --",
    ]


def test_one_live_line_on_a_terminal(tmp_path):
    screen = console(terminal=True)
    with MetricWriter(tmp_path, PLAIN, console=screen) as writer:
        for step in (10, 20):
            writer.progress(step, 20, loss=1.0, clips_per_second=2.5, eta_seconds=0)
        writer.note("a note")
    text = screen.file.getvalue()
    assert "\x1b[" in text and "step 20/20  loss 1.0000  2.50 clips/s  ETA 0:00:00" in text and "a note" in text


def test_what_takes_long_is_printed_once_where_lines_stay(tmp_path):
    screen = console(terminal=False)
    with MetricWriter(tmp_path, PLAIN, console=screen) as writer:
        for line in ("compiling", "evaluating 2 + 1 videos", "evaluating 2 + 1 videos"):
            with writer.busy(line):
                writer.note("meanwhile")
    assert screen.file.getvalue().splitlines() == [
        *("compiling", "meanwhile", "evaluating 2 + 1 videos", "meanwhile", "meanwhile")
    ]


def test_what_takes_long_is_live_on_a_terminal_and_gives_the_line_back(tmp_path):
    screen = console(terminal=True)
    with MetricWriter(tmp_path, PLAIN, console=screen) as writer:
        writer.progress(10, 20, loss=1.0, clips_per_second=2.5, eta_seconds=0)
        for _ in range(2):
            with writer.busy("evaluating 2 + 1 videos"):
                pass
    text = screen.file.getvalue()
    assert text.count("evaluating 2 + 1 videos") == 2
    assert text.rindex("step 10/20") > text.rindex("evaluating 2 + 1 videos")  # it stays on the screen


def _events(path):
    """Return the events of a file in TensorFlow's format of records."""
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert [masked_crc32c(part) for part in (content[:8], content[12 : 12 + length])] == [
            *struct.unpack("<I", content[8:12]),
            *struct.unpack("<I", content[12 + length : 16 + length]),
        ]
        events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def test_tensorboard_takes_every_name(tmp_path):
    with MetricWriter(tmp_path, TENSORBOARD, restored_step=4) as writer:
        writer.write(5, {"train/frame->clip/up": 0.5, "monitor/clip/rank": math.nan, "knn/clip/top1": 2.5})
    (path,) = (tmp_path / "tb").iterdir()
    version, restart, scalars = _events(path)
    assert version.file_version == "brain.Event:2" and abs(scalars.wall_time - time.time()) < 60
    assert (restart.step, restart.session_log.status, scalars.step) == (5, event_pb2.SessionLog.START, 5)
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert values == {"train/frame_to_clip/up": 0.5, "knn/clip/top1": 2.5}
    with MetricWriter(tmp_path, TENSORBOARD, restored_step=4):
        assert len(list((tmp_path / "tb").iterdir())) == 2


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **options):
        self.calls.append(("init", options["id"], options["resume"]))
        return self

    id = "abc"

    def define_metric(self, name, step_metric):
        self.calls.append(("define", name, step_metric))

    def log(self, values):
        self.calls.append(("log", values))

    def finish(self):
        self.calls.append(("finish",))


def test_wandb_keeps_its_run_over_a_resume(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(tmp_path, [3], WANDB)
    train(tmp_path, [], WANDB, restored_step=3)
    train(tmp_path, [], WANDB)
    logged = {"train/frame_to_clip/up": 0.25, "knn/frame/top1": 0.03, "global_step": 3}
    assert fake.calls[:4] == [("init", None, "allow"), ("define", "*", "global_step"), ("log", logged), ("finish",)]
    assert [call[1] for call in fake.calls if call[0] == "init"] == [None, "abc", None]
    for content in ("[]", "{}", '{"id'):
        (tmp_path / "wandb.json").write_text(content)
        train(tmp_path, [], WANDB, restored_step=3)
        assert [call[1] for call in fake.calls if call[0] == "init"][-1] is None


def test_a_missing_wandb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MetricsError, match="requirements-extras"):
        MetricWriter(tmp_path, WANDB)


@pytest.mark.parametrize("line", ["import nothing_of_this_name", "raise TypeError('two\\nlines')"])
def test_a_broken_wandb_is_not_called_missing(tmp_path, monkeypatch, line):
    (tmp_path / "wandb.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(
        MetricsError, match="wandb is installed, but its import fails .(ModuleNotF|TypeE).*; mend"
    ) as caught:
        MetricWriter(tmp_path, WANDB)
    assert "\n" not in str(caught.value)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path, TENSORBOARD, console=console(terminal=False)) as writer:
        writer.write(1, {"a": 1.0})
        writer.progress(1, 2, loss=0.0, clips_per_second=1.0, eta_seconds=1.0)
        writer.note("x")
    assert list(tmp_path.iterdir()) == []


def test_throughput_is_of_the_latest_steps_without_pauses():
    now = [0.0]
    meter = Throughput(clips_per_step=8, total_steps=100, window=4, clock=lambda: now[0])
    assert meter.clips_per_second is None and meter.eta_seconds is None
    meter.tick(0)
    assert meter.clips_per_second is None
    for step in range(1, 20):
        now[0] += 10.0 if step < 10 else 2.0
        meter.tick(step)
    assert meter.clips_per_second == pytest.approx(4.0) and meter.eta_seconds == pytest.approx(81 * 2.0)
    with meter.paused():
        now[0] += 1000.0
    now[0] += 2.0
    meter.tick(20)
    assert meter.clips_per_second == pytest.approx(4.0)
