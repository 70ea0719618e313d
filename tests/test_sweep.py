"""The command `sweep`: what it refuses, the commands that it prints, and a small sweep from its start to its table."""

import csv
import pathlib
import shlex
import subprocess
import sys
import time

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from hvt_jax import disk
from hvt_jax.commands import config_file, sweep_file
from hvt_jax.settings import SettingsError, read_settings
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from configs import digits

def get_config(argument=""):
    config = digits.get_config()
    config.update_from_flattened_dict({fields!r})
    if argument:
        config.train.max_steps = int(argument)
    return config

def get_sweep({parameter}):
    return {sweep}
"""


def _write(path, sweep, fields=None, parameter=""):
    """Write a config file with a sweep."""
    path.write_text(CONFIG.format(fields=fields or {}, sweep=sweep, parameter=parameter))
    return path


def _read(path, argument="", overrides=None, seeds=None):
    """Return {run's name: its settings}, as the command reads them."""
    given, overrides = f"{path}{argument}", overrides or {}
    sweep = sweep_file.read_sweep(given, overrides, seeds)
    return {
        run.name: read_settings(sweep_file.read_config(run, given, overrides))
        for run in sweep.runs(pathlib.Path("runs/x"))
    }


def test_runs_are_read_as_their_processes_read_them(tmp_path):
    sweep = {
        "grid": {
            "optimizer.learning_rate": [1, 0.25],
            "model.frame.predictor_hidden": {"none": (), "one": [64], "two": (64, 32)},
            "objective.side": [False],
            "data.label": ["", "a digit"],
            "optimizer.frozen": [("frame", "frame/predictors")],
        },
        "seeds": [5],
    }
    path = _write(tmp_path / "c.py", repr(sweep))
    found = _read(path, ":7", {"train.batch_size": 3, "data.mean": (0.5, 0.25, 0.125)})
    assert len(found) == 12
    settings = found[
        "learning_rate=0.25,frame.predictor_hidden=two,objective.side=False,label=a_digit,"
        "frozen=frame+frame_predictors/seed5"
    ]
    assert (settings.seed, settings.optimizer.learning_rate, settings.model.frame.predictor_hidden) == (
        5,
        0.25,
        (64, 32),
    )
    assert (settings.objective.side, settings.data.label) == (False, "a digit")
    assert settings.optimizer.frozen == ("frame", "frame/predictors")
    assert (settings.train.max_steps, settings.train.batch_size, settings.data.mean) == (7, 3, (0.5, 0.25, 0.125))
    assert {settings.model.frame.predictor_hidden for settings in found.values()} == {(), (64,), (64, 32)}
    assert {settings.data.label for settings in found.values()} == {"", "a digit"}


def test_a_sweep_may_take_the_argument(tmp_path):
    path = _write(tmp_path / "c.py", "{'settings': [{}], 'seeds': [int(argument or 9)]}", parameter="argument=''")
    assert list(_read(path, ":7")) == ["base/seed7"] and list(_read(path)) == ["base/seed9"]
    assert list(_read(path, seeds=(1, 2))) == ["base/seed1", "base/seed2"]


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        ({"train.bacth_size": 4}, "bacth_size=4/seed0: config.train.bacth_size = 4 is unknown; did you mean config.tr"),
        ({"train": 4}, "train=4/seed0: config.train = 4, but it is a group of fields; set one of them"),
        ({"train.batch_size": "many"}, "config.train.batch_size = many, but must be int, such as 64"),
        ({"train.batch_size": 0.5}, "train.batch_size=0.5/seed0: config.train.batch_size = 0.5, but must be int"),
        ({"train.batch_size": "8"}, "config.train.batch_size = '8' is a str, but must be int"),
        ({"train.fsdp": 1}, "fsdp=1/seed0: config.train.fsdp = 1 is a int, but must be bool"),
        ({"data.label": True}, "config.data.label = True is a bool, but must be str"),
        ({"data.label": 3}, "config.data.label = 3 is a int, but must be str"),
        ({"optimizer.learning_rate": None}, "config.optimizer.learning_rate = None, but must be float"),
        ({"objective.distance": "mes"}, "distance=mes/seed0: config.objective.distance = 'mes', but must be one of"),
        ({"train.batch_size": 0}, "train.batch_size=0/seed0: config.train.batch_size = 0, but must be at least 1"),
        ({"data.height": 63}, "height=63/seed0: data.height = 63 is no multiple of 16"),
    ],
)
def test_what_no_run_could_use_is_refused_with_its_name(tmp_path, sweep, line):
    path = _write(tmp_path / "c.py", repr({"settings": [{}, sweep]}))
    with pytest.raises(SettingsError) as caught:
        _read(path)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "overrides", "line"),
    [
        ("{'grid': {'objective.side': [True]}}", {"objective.side": False}, "--config.objective.side is given, but "),
        (
            "{'grid': {'objective.side': [True]}}",
            {"seed": 3},
            "--config.seed is each run's own in a sweep; give --seeds",
        ),
        ("{'gird': {}}", {}, "c.py: get_sweep() has 'gird', but only grid, settings, seeds, names are known"),
        ("1 / 0", {}, "c.py, line 12: ZeroDivisionError: division by zero"),
        ("unknown", {}, "c.py, line 12: NameError: "),
    ],
)
def test_what_is_no_sweep_is_refused_with_its_file(tmp_path, sweep, overrides, line):
    path = _write(tmp_path / "c.py", sweep)
    with pytest.raises(SettingsError) as caught:
        _read(path, overrides=overrides)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_without_a_sweep_is_named():
    with pytest.raises(
        config_file.ConfigFileError, match=r"^configs/digits.py: has no function get_sweep\(\); see conf"
    ):
        config_file.load_sweep("configs/digits.py")
    with pytest.raises(SettingsError, match="^configs/digit.py: no such config file; did you mean configs/digits.py"):
        sweep_file.read_sweep("configs/digit.py", {}, None)


def _sweep(path, workdir, *words):
    """Run the command and return what became of it."""
    command = [sys.executable, "-m", "hvt_jax", "sweep", f"--config={path}", f"--workdir={workdir}", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=runs.environment(), timeout=240)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seeds=1,x"], "--seeds=1,x, but must be whole numbers, such as 0,1,2"),
        (["--print", "--table"], "--print and --table exclude each other"),
        (["--table"], "no run of the sweep is done yet: learning_rate=0.0005/seed0 is not begun"),
        (["--config.train.fsdp=perhaps"], "config.train.fsdp = perhaps, but must be bool, such as False"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, line):
    done = _sweep("configs/sweep_digits.py", tmp_path / "runs", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")
    assert not (tmp_path / "runs").exists()


def test_printed_commands_are_the_runs(tmp_path):
    words = ["--print", "--config.data.root=my data", "--seeds=4"]
    done = _sweep("configs/sweep_digits.py:smoke", tmp_path / "runs", *words)
    assert (done.returncode, done.stderr) == (0, "2 settings x 1 seeds: 2 runs, 0 done\n")
    assert not (tmp_path / "runs").exists()
    found = []
    for line in done.stdout.splitlines():
        program, *command = shlex.split(line)
        assert (program, command[:2]) == (sys.executable, ["-m", "hvt_jax.main"])
        config, folder = _parse(command[2:])
        settings = read_settings(config)
        assert (settings.train.max_steps, settings.data.root, settings.seed) == (20, "my data", 4)
        found.append((settings.optimizer.learning_rate, folder))
    names = [tmp_path / "runs" / f"learning_rate={rate}" / "seed4" for rate in ("0.0005", "0.002")]
    assert found == [(5e-4, str(names[0])), (2e-3, str(names[1]))]


def _parse(words):
    """Return config and workdir of the arguments of `python -m hvt_jax.main`."""
    values, argv = flags.FlagValues(), ["main", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert values(argv) == ["main"]
    return values["config"].value, values["workdir"].value


@pytest.mark.long
def test_a_sweep_from_start_to_table(tmp_path):
    """Two runs, one of which has no data: it is named; the other counts, and is not repeated nor mixed with others."""
    data = {"one": str(runs.make_data(tmp_path / "digits")), "two": str(tmp_path / "nothing")}
    path = _write(tmp_path / "c.py", repr({"grid": {"data.root": data}, "seeds": [0]}), runs.FIELDS)
    workdir = tmp_path / "x"
    done = _sweep(path, workdir, "--metric=knn/frame/top1", "--processes=2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("2 settings x 1 seeds: 2 runs, 0 done\n2 runs at a time, ")
    log = workdir / "root=two" / "seed0.log"
    assert f"error: root=two/seed0: its config, data or folder cannot be used, see {log}\n" in done.stderr
    assert "1 of 2 runs are not done; the same command runs them again" in done.stderr
    assert "- root=two/seed0: not begun" in (workdir / "sweep.md").read_text()
    assert (workdir / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((workdir / "sweep.csv").open()))
    assert [(row["setting"], row["metric"]) for row in rows] == [
        ("root=one", f"knn/{level}/motion/top1") for level in ("frame", "clip")
    ]
    scores = runs.results(workdir / "root=one" / "seed0")["knn"]
    assert [float(row["mean"]) for row in rows] == pytest.approx(
        [scores[level]["motion"]["top1"] for level in ("frame", "clip")], rel=1e-5
    )

    again = _sweep(path, workdir, "--print")
    assert (again.returncode, again.stderr) == (0, "2 settings x 1 seeds: 2 runs, 1 done\n")
    assert again.stdout.count("\n") == 1 and f"--workdir={workdir}/root=two/seed0\n" in again.stdout
    other = _sweep(path, workdir, "--config.train.batch_size=2")
    assert (other.returncode, other.stdout) == (2, "")
    assert "config differs: train.batch_size 4 -> 2); one table would mix them" in other.stderr
    with disk.locked(workdir, RuntimeError):
        busy = _sweep(path, workdir)
    assert busy.returncode == 2 and "wait for its end, or name another --workdir" in busy.stderr


@pytest.mark.long
def test_an_interrupted_sweep_saves_and_goes_on(tmp_path):
    """SIGINT comes to the sweep alone; the run saves and is resumed, with the numbers of one that was never stopped."""
    fields = runs.FIELDS | {"data.root": str(runs.make_data(tmp_path / "digits")), "train.num_epochs": 10.0}
    path = _write(tmp_path / "c.py", repr({"settings": {"a": {}}, "seeds": [0, 1]}), fields)
    command = [sys.executable, "-m", "hvt_jax", "sweep", f"--config={path}", f"--workdir={tmp_path / 'runs'}"]
    sweep = subprocess.Popen(command, cwd=ROOT, env=runs.environment(), stderr=subprocess.PIPE, text=True)
    folder, end = tmp_path / "runs" / "a" / "seed0", time.monotonic() + 200
    while runs.last_step(folder) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    sweep.send_signal(2)
    assert (sweep.communicate(timeout=100)[1], sweep.returncode) == (
        "error: interrupted; run the same command again to go on\n",
        130,
    )
    assert runs.results(folder)["outcome"] == "preempted" and not folder.with_name("seed1").exists()
    done = _sweep(path, tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at step" in folder.with_suffix(".log").read_text()
    whole = runs.train_here(tmp_path / "whole", fields | {"seed": 0})
    assert whole.code == 0, whole.stderr
    assert runs.numbers(folder) == runs.numbers(tmp_path / "whole")


def test_the_example_for_wandb_is_read_as_meant():
    """The agent puts `--NAME=VALUE` for every parameter in the place of `${args}`."""
    text = (ROOT / "docs" / "sweeps.md").read_text()
    sweep = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    chosen = {
        name: choice["values"][-1] if "values" in choice else choice["min"]
        for name, choice in sweep["parameters"].items()
    }
    *shell, script, name, args = sweep["command"]
    assert (shell, args) == (["bash", "-c"], "${args}")
    line = script.replace("exec python", "printf '%s\\n' python", 1)
    words = [f"--{name}={value}" for name, value in chosen.items()]
    run = subprocess.run(
        ["bash", "-c", line, name, *words],
        capture_output=True,
        text=True,
        env={"WANDB_RUN_ID": "abc", "PATH": "/bin:/usr/bin"},
    )
    assert run.returncode == 0, run.stderr
    config, folder = _parse(run.stdout.splitlines()[3:])
    settings = read_settings(config)
    assert folder == "runs/wandb/abc" and settings.logging.wandb
    assert (settings.seed, settings.objective.side, settings.objective.distance) == (2, False, "mse")
    assert settings.optimizer.learning_rate == 3e-4
