"""A run folder belongs to one live run, and says what ran in it."""

import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from configs import default
from hvt_jax.run.run_folder import RunFolder, RunFolderError, write_json

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = """
import sys, time
from hvt_jax.run.run_folder import RunFolder
folder = RunFolder(sys.argv[1], warn=print)
print("held", flush=True)
time.sleep(60)
"""


def start_holder(path):
    # Never on an accelerator: the process is killed.
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert holder.stdout.readline() == "held\n"
    return holder


def config(width=96):
    tree = ml_collections.ConfigDict({"seed": 3, "model": {"clip": {"width": width, "scales": (1, 2)}}})
    return tree.lock()


def test_a_second_run_is_refused_and_a_killed_one_replaced(tmp_path):
    holder = start_holder(tmp_path)
    try:
        with pytest.raises(RunFolderError, match=f"in use by the run with pid {holder.pid} on host") as caught:
            RunFolder(tmp_path, warn=pytest.fail)
        assert socket.gethostname() in str(caught.value) and "another --workdir" in str(caught.value)
        assert "\n" not in str(caught.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    warnings = []
    with RunFolder(tmp_path, warn=warnings.append):
        (line,) = warnings
        assert f"pid {holder.pid}" in line and "taking it over" in line


def test_the_same_process_may_not_open_it_twice(tmp_path):
    with RunFolder(tmp_path, warn=pytest.fail), pytest.raises(RunFolderError, match=f"pid {os.getpid()} "):
        RunFolder(tmp_path, warn=pytest.fail)
    RunFolder(tmp_path, warn=pytest.fail).close()


def test_without_flock_the_pid_decides(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("hvt_jax.run.run_folder._ORPHAN_SECONDS", 0.0)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = {"host": socket.gethostname(), "started": "then"}
    for pid, host, free in ((dead.pid, owner["host"], True), (1, owner["host"], False), (dead.pid, "other", False)):
        (tmp_path / "lock").write_text(json.dumps({"pid": pid, "host": host}))
        if free:
            RunFolder(tmp_path, warn=str).close()
        else:
            with pytest.raises(RunFolderError, match=f"pid {pid} on host {host}"):
                RunFolder(tmp_path, warn=pytest.fail)


def test_a_damaged_lock_file_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text("{torn")
    RunFolder(tmp_path, warn=pytest.fail).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file/run cannot be written: Not a directory; give another --workdir"):
        RunFolder(tmp_path / "file" / "run", warn=pytest.fail)


def test_config_changes_are_listed_field_by_field(tmp_path):
    with RunFolder(tmp_path, warn=pytest.fail) as folder:
        assert folder.changed_fields(config()) == []
        folder.write_config(config())
        assert folder.changed_fields(config()) == []
        assert folder.changed_fields(config(128)) == ["config differs: model.clip.width 96 -> 128"]
        more = ml_collections.ConfigDict({"seed": 3, "model": {"clip": {"width": 96}}, "name": "x"})
        assert folder.changed_fields(more) == [
            "config differs: model.clip.scales [1, 2] -> absent",
            "config differs: name absent -> 'x'",
        ]
        folder.write_config(ml_collections.ConfigDict({"name": ""}))
        assert folder.changed_fields(ml_collections.ConfigDict({"name": "x"})) == ["config differs: name '' -> 'x'"]
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(RunFolderError, match="config.json is damaged"):
            folder.changed_fields(config())


def test_what_a_run_was_trained_with_stays(tmp_path):
    with RunFolder(tmp_path, warn=pytest.fail) as folder:
        folder.write_config(config())
        folder.write_config(config(), restored_step=3, num_steps=9)
        assert [path.name for path in tmp_path.glob("config*")] == ["config.json"]
        folder.write_config(config(128), restored_step=9, num_steps=9)  # nothing is left to train
        assert folder.changed_fields(config()) == []
        folder.write_config(config(128), restored_step=5, num_steps=9)
        assert folder.changed_fields(config(128)) == []
    before = json.loads((tmp_path / "config-until-5.json").read_text())
    assert before["model"]["clip"]["width"] == 96


def test_fields_that_came_later_are_no_changes(tmp_path):
    now = default.get_config()
    before = json.loads(now.to_json())
    del before["model"]["attention"], before["train"]["deterministic"], before["jepa"]
    before["objective"]["patch_questions"] = before["objective"].pop("patch_targets")
    with RunFolder(tmp_path, warn=pytest.fail) as folder:
        (tmp_path / "config.json").write_text(json.dumps(before))
        assert folder.changed_fields(now) == []
        del before["objective"]["patch_weight"]  # all predictions counted alike then
        (tmp_path / "config.json").write_text(json.dumps(before))
        assert folder.changed_fields(now) == ["config differs: objective.patch_weight 1.0 -> 16.0"]


def test_environment_and_results(tmp_path):
    with RunFolder(tmp_path, warn=pytest.fail) as folder:
        folder.write_environment(seed=7)
        folder.write_results({"knn/clip/top1": np.float32(0.5), "loss": math.nan, "steps": np.int64(3), "l": (1, 2)})
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["seed"] == 7 and environment["versions"]["jax"] == jax.__version__
    assert len(environment["devices"]) == jax.device_count() and environment["host"] == socket.gethostname()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == {"knn/clip/top1": 0.5, "loss": "nan", "steps": 3, "l": [1, 2]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        write_json(str(path), {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with RunFolder(tmp_path / "run", warn=pytest.fail) as folder:
        folder.write_config(config())
        folder.write_environment(seed=0)
        folder.write_results({})
    assert not (tmp_path / "run").exists()
