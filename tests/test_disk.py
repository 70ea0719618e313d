"""A full disk, or a folder that cannot be written, ends with one line: the file, the reason and the remedy."""

import errno
import os

import ml_collections
import pytest

from hvt_jax import disk
from hvt_jax.data import manifest, quarantine
from hvt_jax.data.dataset import DataError
from hvt_jax.data.problems import Problem
from hvt_jax.run import event_file, report, run_folder
from hvt_jax.run.metrics import MetricsError, MetricWriter
from hvt_jax.run.run_folder import RunFolder, RunFolderError
from hvt_jax.settings import LoggingSettings
from hvt_jax.tools import digits_files

PLAIN = LoggingSettings(interval_steps=10, tensorboard=False, wandb=False, wandb_project="test")
TENSORBOARD = LoggingSettings(interval_steps=10, tensorboard=True, wandb=False, wandb_project="test")
FULL = "/dev/full"
REFUSED = "cannot be written: No space left on device; free some space there, or give another --workdir"
needs_dev_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full on this system")


@pytest.fixture
def fill(monkeypatch):
    """Let every attempt to replace a file find a full disk."""
    full, replace = set(), os.replace

    def refuse(source, target):
        if str(target) in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    return lambda path: full.add(str(path))


@pytest.mark.parametrize("name", ["config.json", "environment.json", "results.json"])
def test_files_of_a_run_folder(tmp_path, name, fill):
    fill(tmp_path / name)
    with RunFolder(tmp_path, warn=pytest.fail) as folder, pytest.raises(RunFolderError) as caught:
        folder.write_config(ml_collections.ConfigDict({"seed": 3}))
        folder.write_environment(seed=3)
        folder.write_results({})
    assert str(caught.value) == f"{tmp_path}/{name} {REFUSED}"


@pytest.mark.parametrize("name", ["report.md", "figures/losses.png"])
def test_the_report(tmp_path, name, fill):
    (tmp_path / "figures").mkdir()
    fill(tmp_path / name)
    with pytest.raises(RunFolderError) as caught:
        report.write_report(tmp_path, [{"step": 1, "train/frame->clip/up": 1.0}], {}, [])
    assert str(caught.value) == f"{tmp_path}/{name} {REFUSED}"


def test_the_folder_of_figures(tmp_path):
    (tmp_path / "figures").touch()
    with pytest.raises(RunFolderError, match="/figures cannot be written: "):
        report.write_report(tmp_path, [], {}, [])


def test_the_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(RunFolderError, match=REFUSED):
        RunFolder(tmp_path, warn=pytest.fail)


@needs_dev_full
def test_metrics(tmp_path, fill):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(MetricsError, match=f"metrics.jsonl {REFUSED}"), MetricWriter(tmp_path, PLAIN) as writer:
        writer.write(1, {"a": 1.0})
        writer._jsonl.close()
        writer._jsonl = open(FULL, "a")  # the disk is full from here on
        writer.write(2, {"a": 1.0})
    assert path.read_text().count("\n") == 1
    fill(path)
    with pytest.raises(MetricsError, match=f"metrics.jsonl {REFUSED}"):
        MetricWriter(tmp_path, PLAIN, restored_step=1)
    assert path.read_text().count("\n") == 1


@needs_dev_full
def test_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file, "_FLUSH_SECONDS", 0.0)
    (tmp_path / "tb").touch()
    with pytest.raises(MetricsError, match="tb cannot be written: File exists; give another --workdir"):
        MetricWriter(tmp_path, TENSORBOARD)
    (tmp_path / "tb").unlink()
    with pytest.raises(MetricsError, match=f"tb {REFUSED}"), MetricWriter(tmp_path, TENSORBOARD) as writer:
        writer._tensorboard._writer._py_recordio_writer._writer = open(FULL, "ab")
        writer.write(2, {"a": 1.0})


def test_lists_of_bad_videos(tmp_path, fill):
    fill(tmp_path / "quarantine.jsonl")
    bad = [quarantine.BadVideo("a.mp4", Problem.EMPTY, 0, 1)]
    with pytest.raises(DataError, match=f"quarantine.jsonl {REFUSED}"):
        quarantine.write_quarantine(str(tmp_path / "quarantine.jsonl"), bad)
    fill(tmp_path / "manifest.jsonl")
    with pytest.raises(DataError, match="manifest.jsonl: No space left on device; name a file .* with --manifest"):
        manifest.write_manifest(tmp_path / "manifest.jsonl", [manifest.Entry("a.mp4", 1, 1.0)])


@pytest.mark.parametrize("name", ["digits.json", "videos/Left/v_Left_g01_c01.avi", "factors.csv"])
def test_digits(tmp_path, name):
    spec = digits_files.DigitsSpec(16, 32, "mpeg4", 0)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    if name != "digits.json":
        digits_files._write_manifest(tmp_path, spec, complete=False)
    (tmp_path / f"{name}.tmp").mkdir()  # also seen by the processes that write videos
    with pytest.raises(DataError, match=f"{name} cannot be written: .*; name another folder with --root"):
        digits_files.make_digits(tmp_path, spec)


def test_a_link_in_the_place_of_an_unfinished_file_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "a.json.tmp").symlink_to(tmp_path / "other")
    disk.write_file(tmp_path / "a.json", b"{}")
    assert (tmp_path / "other").read_text() == "precious"
    assert (tmp_path / "a.json").read_bytes() == b"{}" and not (tmp_path / "a.json").is_symlink()


def test_mistakes_of_the_program_keep_their_traceback(tmp_path):
    with pytest.raises(TypeError):
        run_folder.write_json(str(tmp_path / "a.json"), {"a": object()})


def test_too_many_open_files_are_no_matter_of_another_place():
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/dev/shm/x")
    assert disk.is_refusal(error)
    assert disk.explain(error, None, "name another place") == (
        "Too many open files; raise the limit with `ulimit -n 4096`, or lower data.num_workers or data.prefetch_batches"
    )


def test_only_one_process_at_a_time_has_a_locked_folder(tmp_path):
    folder = tmp_path / "new"
    with disk.locked(folder, DataError):
        with pytest.raises(DataError, match="/new: another process is at work there; wait for its end"):
            with disk.locked(folder, DataError):
                pytest.fail("two have the lock")
        folder.rename(tmp_path / "done")
    with disk.locked(folder, DataError), disk.locked(tmp_path / "done", DataError, wait=True):
        pass
