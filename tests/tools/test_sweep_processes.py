"""Processes of a sweep: in turn or together, on shares of the machine, failing, stopped and orphaned; no training."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from hvt_jax.tools import sweep_places, sweep_processes
from hvt_jax.tools.sweep_places import Place
from hvt_jax.tools.sweep_processes import Job

ROOT = pathlib.Path(__file__).parents[2]
# Says that it lives, then saves and ends with 143 when told to, as a training does.
POLITE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(number, frame):
    (folder / "saved").write_text(signal.Signals(number).name)
    sys.exit(143)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, save)
(folder / "alive").write_text(str(os.getpid()))
time.sleep(60)
"""
DEAF = POLITE.replace("signal.signal(number, save)", "signal.signal(number, signal.SIG_IGN)")


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


def _job(tmp_path, name, code, *words):
    return Job(name, ["-c", code, *map(str, words)], tmp_path / name / "run.log")


def _wait_for(path):
    end = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


def test_one_after_the_other_and_failures_are_named(tmp_path):
    order = tmp_path / "order"
    note = f"open({str(order)!r}, 'a').write('{{0}}'); print('last words'); raise SystemExit({{1}})"
    jobs = [_job(tmp_path, name, note.format(name, code)) for name, code in (("a", 0), ("b", 2), ("c", -0), ("d", 3))]
    said = []
    codes, number = sweep_processes.run_jobs(jobs, [Place()], said.append)
    assert (codes, number) == ({"a": 0, "b": 2, "c": 0, "d": 3}, 0)
    assert order.read_text() == "abcd"
    assert said[0] == f"[1/4] a: begins, see {jobs[0].log}" and said[1].startswith("a: done in 0:00:0")
    assert "about 0:00:0" in said[1] and "left" not in said[7]
    log = tmp_path / "b" / "run.log"
    assert said[3].startswith(
        f"b: its config, data or folder cannot be used, exit code 2; see {log}: last words; about"
    )
    assert said[7] == f"d: diverged, exit code 3; see {tmp_path / 'd' / 'run.log'}: last words"


def test_several_at_a_time_each_in_a_place(tmp_path):
    """Each waits for the other, so that one after the other would never end; a place has cores and variables."""
    code = """
import os, pathlib, sys, time
mine, other = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
mine.write_text(f"{sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else [0]} {os.environ['SHARE']}")
end = time.monotonic() + 30
while not other.exists() and time.monotonic() < end:
    time.sleep(0.01)
raise SystemExit(not other.exists())
"""
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = [_job(tmp_path, "a", code, one, two), _job(tmp_path, "b", code, two, one)]
    core = sweep_places.find_cores()[:1]
    places = [Place(tuple(core), {"SHARE": "x"}), Place(tuple(core), {"SHARE": "y"})]
    assert sweep_processes.run_jobs(jobs, places, lambda _: None) == ({"a": 0, "b": 0}, 0)
    assert [one.read_text(), two.read_text()] == [f"{core or [0]} x", f"{core or [0]} y"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_the_runs_save_and_begins_no_other(tmp_path, number):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    jobs = [_job(tmp_path, folder.name, POLITE, folder) for folder in folders]

    def stop():
        for folder in folders[:2]:
            _wait_for(folder / "alive")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop)
    thread.start()
    said = []
    codes, came = sweep_processes.run_jobs(jobs, [Place(), Place()], said.append)
    thread.join()
    assert (codes, came) == ({"a": 143, "b": 143}, number)
    assert [(folder / "saved").exists() for folder in folders] == [True, True, False]
    assert said[2] == "stopping: 2 run(s) save and end; once more ends them at once"
    assert {line.split(";")[0] for line in said[3:]} == {
        f"{name}: preempted and saved, exit code 143" for name in ("a", "b")
    }
    assert signal.getsignal(number) == before


def test_the_same_signal_once_more_ends_them_at_once(tmp_path):
    job = _job(tmp_path, "a", DEAF, tmp_path / "a")
    said = []

    def stop():
        _wait_for(tmp_path / "a" / "alive")
        os.kill(os.getpid(), signal.SIGTERM)
        while not any(line.startswith("stopping") for line in said):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)  # another one: a cluster sends both, and it is still saving
        time.sleep(3 * sweep_processes._POLL_SECONDS)
        said.append("again")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    codes, came = sweep_processes.run_jobs([job], [Place()], said.append)
    thread.join()
    assert (codes, came) == ({"a": -signal.SIGKILL}, signal.SIGTERM)
    assert said[2:4] == ["again", "1 run(s) killed; they go on from their last checkpoints"]
    assert said[4].startswith("a: ended by SIGKILL, exit code -9")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_killed_sweep_leaves_no_orphan(tmp_path):
    code = f"""
import pathlib
from hvt_jax.tools.sweep_places import Place
from hvt_jax.tools.sweep_processes import Job, run_jobs
folder = pathlib.Path({str(tmp_path)!r})
run_jobs([Job("a", ["-c", {POLITE!r}, str(folder)], folder / "log")], [Place()], print)
"""
    sweep = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _wait_for(tmp_path / "alive")
    sweep.kill()
    sweep.wait()
    _wait_for(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "SIGTERM"


def test_a_process_whose_parent_is_gone_does_not_begin():
    run = [sys.executable, "-m", "hvt_jax.tools.attached", "1", "-", "-c", "print('ran')"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and "is gone" in done.stderr


def test_an_error_of_the_sweep_itself_ends_the_runs(tmp_path):
    class Stop(Exception):
        pass

    def say(line):
        if line.startswith("[2/"):
            _wait_for(tmp_path / "a" / "alive")
            raise Stop

    jobs = [_job(tmp_path, "a", POLITE, tmp_path / "a"), _job(tmp_path, "b", "pass")]
    with pytest.raises(Stop):
        sweep_processes.run_jobs(jobs, [Place(), Place()], say)
    pid = int((tmp_path / "a" / "alive").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("processes", "cores", "gpus", "shares", "line"),
    [
        (1, [0, 1, 2, 3], ["0", "1"], [((), {})], "one run at a time, on all cores and devices"),
        (2, [], [], [((), {})] * 2, "2 runs at a time, on all cores together"),
        (2, [0, 1, 4, 5], [], [((0, 1), {}), ((4, 5), {})], "2 runs at a time, 2 of 4 cores each"),
        (2, [0, 1, 2], [], [((0,), {}), ((1, 2), {})], "2 runs at a time, 1 to 2 of 3 cores each"),
        (
            3,
            [0, 1],
            [],
            [((), {})] * 3,
            "3 runs at a time, on 2 core(s) together, more than they can use: each is slower, the whole no faster",
        ),
        (
            2,
            [0, 1],
            ["0", "1", "2", "3"],
            [((0,), {"CUDA_VISIBLE_DEVICES": "0,1"}), ((1,), {"CUDA_VISIBLE_DEVICES": "2,3"})],
            "2 runs at a time, 1 of 2 cores each; 4 GPU(s), up to 1 run(s) on one",
        ),
    ],
)
def test_the_machine_is_shared_out(processes, cores, gpus, shares, line):
    places, said = sweep_places.share_out(processes, cores, gpus, {})
    assert ([(place.cores, dict(place.variables)) for place in places], said) == (shares, line)


def test_runs_on_one_gpu_share_its_memory():
    places, said = sweep_places.share_out(3, [0, 1, 2], ["5", "7"], {})
    assert [place.variables["CUDA_VISIBLE_DEVICES"] for place in places] == ["5", "7", "5"]
    assert {place.variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] for place in places} == {"0.450"}
    assert said.endswith("2 GPU(s), up to 2 run(s) on one, with 45% of its memory each")
    places, _ = sweep_places.share_out(3, [0, 1, 2], ["5"], {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"})
    assert dict(places[0].variables) == {"CUDA_VISIBLE_DEVICES": "5"}


def test_gpus_are_those_that_a_run_would_see(tmp_path, monkeypatch):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sweep_places, "_GPU_FOLDERS", tmp_path)
    assert sweep_places.find_gpus({}) == ["0", "1"]
    assert sweep_places.find_gpus({"JAX_PLATFORMS": "cpu"}) == []
    assert sweep_places.find_gpus({"JAX_PLATFORMS": "cuda,cpu"}) == ["0", "1"]
    assert sweep_places.find_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-8"}) == ["3", "GPU-8"]
    assert sweep_places.find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
