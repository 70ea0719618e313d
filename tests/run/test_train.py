"""The command a user types: what it leaves, how it resumes, how it refuses."""

import json
import os
import pathlib
import re
import shutil
import signal

import pytest

from hvt_jax.data.dataset import Dataset
from hvt_jax.evaluation import results as results_lib
from hvt_jax.settings import SettingsError
from tests import kill_and_resume, runs

NUM_STEPS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the data, two of 24 videos damaged."""
    folder = tmp_path_factory.mktemp("world")
    data = runs.make_data(folder / "digits")
    lists = [(data / "annotations" / f"{split}list01.txt").read_text() for split in ("train", "test")]
    broken = [data / "videos" / rows.splitlines()[2].split()[0] for rows in lists]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[: broken[1].stat().st_size // 2])
    (folder / "broken.json").write_text(json.dumps([path.name for path in broken]))
    return folder


def _fields(world, **fields) -> dict:
    return {"data.root": world / "digits", **runs.FIELDS, **fields}


def _start(world, workdir) -> runs.Run:
    """Start a process."""
    return runs.Run(workdir, runs.command(workdir, _fields(world)), runs.environment())


def _train(world, workdir, *, quick=True, **fields) -> runs.Ended:
    return runs.train_here(workdir, _fields(world, **fields), quick=quick)


@pytest.fixture(scope="module")
def finished(world):
    """The folder of a run of 8 steps that nothing disturbed."""
    run = _train(world, world / "finished", quick=False)
    assert run.code == 0, run.stderr
    (world / "finished.txt").write_text(run.stdout)
    return world / "finished"


def _copy(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(folder, tmp_path / "run"))


def test_what_a_run_leaves_behind(world, finished):
    left = {path.name for path in finished.iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "results.json", "report.md", "checkpoints"} <= left
    assert not (finished / "diverged").exists()
    config = json.loads((finished / "config.json").read_text())
    assert config["model"]["frame"]["dropout"] == 0.1
    assert {"versions", "devices", "git", "seed", "command"} <= json.loads(
        (finished / "environment.json").read_text()
    ).keys()
    # The newest three, and what scored best.
    assert {"6", "8", "manifest-6.json", "manifest-8.json"} <= {
        path.name for path in (finished / "checkpoints").iterdir()
    }
    records = runs.numbers(finished)
    assert [record["step"] for record in records if "train/total" in record] == list(range(1, NUM_STEPS + 1))
    assert [record["step"] for record in records if "knn/clip/top1" in record] == [0, 4, 8]
    results = runs.results(finished)
    assert results["outcome"] == "done" and results["steps"] == NUM_STEPS
    assert len(results["parameter_digest"]) == 64
    for level in ("frame", "clip"):
        for label in ("motion", "digit"):
            for protocol in ("knn", "linear", "mlp"):
                scores, name = results[protocol][level][label], f"{protocol}/{level}/{label}"
                assert {"top1", "chance", "standard_error", "untrained_standard_error"} <= scores.keys()
                assert scores["evaluated_step"] == NUM_STEPS and scores["top1"] == records[-1][f"{name}/top1"]
                assert scores["untrained_top1"] == records[0][f"{name}/top1"]
                pairs = {"within_pairs", "untrained_within_pairs"} & scores.keys()
                assert len(pairs) == (2 if label == "motion" else 0)
    ratios = results["edges"]["frame->frame/side"]
    assert all(ratios[name] > 0 for name in ("loss", "mean_ratio", "copy_ratio"))
    assert results["edges"]["clip->frame/down"]["copy_ratio"] is None  # between different widths
    report = (finished / "report.md").read_text()
    assert all(word in report for word in ("untrained", "chance", "| frame |", "| clip |")), report


def test_what_a_run_prints(world, finished):
    lines = (world / "finished.txt").read_text().splitlines()
    assert any(line.startswith("edges     frame->frame/side (weight 1), clip->frame/down") for line in lines)
    assert any(
        line.startswith("data      digits: 16 training, 8 test videos; batch 4, 4 steps an epoch") for line in lines
    )
    assert any(line.startswith("step 8/8  loss ") and " clips/s  ETA " in line for line in lines)
    # What a new user waits for is said, and once only: three evaluations follow.
    waits = [
        lines.index(line)
        for line in ("compiling the network", "evaluating 16 + 8 videos", "compiling the training step")
    ]
    assert waits == sorted(waits) and sum(line.startswith("evaluating") for line in lines) == 1
    spent = r"evaluated in [\d.]+ s: features [\d.]+ s, neighbours and probes [\d.]+ s"
    evaluated = "\n".join(line for line in lines if "evaluated in" in line)
    assert re.fullmatch("\n".join(rf"step {step}: top-1 \(untrained\), {spent}" for step in (0, 4, 8)), evaluated), (
        evaluated
    )
    numbers = r"kNN [\d.]+ \([\d.]+\), linear [\d.]+ \([\d.]+\), MLP [\d.]+ \([\d.]+\)"
    assert sum(bool(re.match(rf"clip: motion {numbers}, pairs [\d.]+ \([\d.]+\) %; ", line)) for line in lines) == 3
    assert sum(bool(re.match(rf"frame: digit {numbers} %; chance 10.0: ", line)) for line in lines) == 3
    assert lines[-1].startswith("results   ")


def test_damaged_videos_are_masked_and_named_once(world, finished):
    zero_bytes, truncated = json.loads((world / "broken.json").read_text())
    named = [line for line in (world / "finished.txt").read_text().splitlines() if line.startswith("bad video ")]
    assert len(named) == 2 and all(line.endswith("its samples are masked") for line in named)
    assert sum(zero_bytes in line for line in named) == sum(truncated in line for line in named) == 1
    rows = [json.loads(line) for line in (finished / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["problem"], row["step"]) for row in rows] == [("empty", 0), ("too few frames", 0)]
    described = [f"{row['path']}: {row['problem']}" for row in rows]
    for line, start in zip(runs.results(finished)["bad_videos"], sorted(described), strict=True):
        assert line.startswith(start)
    shares = [record["data/valid_share"] for record in runs.numbers(finished) if "data/valid_share" in record]
    assert min(shares) < 1.0 == max(shares)
    assert runs.numbers(finished)[-2]["data/bad_videos"] == 2.0


def test_a_finished_run_is_only_reported_again(world, finished, tmp_path):
    copy = _copy(finished, tmp_path)
    run = _train(world, copy)
    assert run.code == 0, run.stderr
    assert run.resumed_at == NUM_STEPS and "step 8/8" not in run.stdout and "evaluating" not in run.stdout
    assert kill_and_resume.differences(finished, copy) == []
    assert runs.results(copy)["steps"] == NUM_STEPS


def test_a_run_whose_videos_changed_says_so_and_evaluates_the_untrained_network_anew(world, finished, tmp_path):
    copy, data = _copy(finished, tmp_path), shutil.copytree(world / "digits", tmp_path / "digits")
    known = runs.results(copy)["knn"]["clip"]["motion"]
    path = data / "annotations" / "testlist01.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
    run = _train(world, copy, **{"data.root": data})
    assert run.code == 0, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if "data differs" in line]
    assert line.startswith("WARNING data differs: 8 test videos before, 4 now: 4 went (videos/")
    records = [record for record in runs.numbers(copy) if record["step"] == NUM_STEPS and "data/fingerprint" in record]
    old, untrained, now = records
    assert old["data/fingerprint"] != now["data/fingerprint"] == untrained["data/fingerprint"]
    scores = runs.results(copy)["knn"]["clip"]["motion"]
    assert scores["untrained_top1"] == untrained["untrained/knn/clip/motion/top1"]
    assert scores["top1"] == now["knn/clip/motion/top1"] and scores["standard_error"] > known["standard_error"]
    assert json.loads((copy / "data.json").read_text())["test"]["videos"] == 4
    again = _train(world, copy, **{"data.root": data})
    assert again.code == 0 and "data differs" not in again.stderr and "evaluating" not in again.stdout
    assert runs.results(copy)["knn"]["clip"]["motion"] == scores


@pytest.mark.long
def test_runs_killed_again_and_again_resume_bit_for_bit(world, finished):
    workdir, said = world / "killed_often", []
    last = kill_and_resume.kill_and_resume(lambda: _start(world, workdir), NUM_STEPS, 3, 1, said.append)
    assert last.code == 0, last.stderr
    assert len([line for line in said if "too late" not in line]) == 4, said  # header and three kills
    assert kill_and_resume.differences(finished, workdir) == []


# An evaluation at step 4 that holds the process in its second batch until it is told to go on, and then gets a SIGTERM:
# at step 0 there are 1 + 3 questions, then 4 steps and 2 batches.
STOP_IN_AN_EVALUATION = """
import os, signal
from absl import app
from hvt_jax import main
from hvt_jax.commands import cli
from hvt_jax.run.preemption import Preemption
asked, requested = [], Preemption.requested
def ask(self):
    asked.append(0)
    if len(asked) == 10:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)
    return requested(self)
Preemption.requested = ask
app.run(main.main, flags_parser=cli.parse_flags)
"""


def test_sigterm_in_an_evaluation_saves_and_exits_143_and_a_second_run_is_refused(world, finished):
    """Begun in a folder whose checkpoints were lost: what else was in it is moved aside."""
    workdir = world / "preempted"
    workdir.mkdir()
    left = {"config.json": '{"seed": 41}', "environment.json": "{}", "metrics.jsonl": '{"step": 3}\n'}
    for name, text in left.items():
        (workdir / name).write_text(text)
    python, _, _, *arguments = runs.command(workdir, {"data.root": world / "digits", **runs.FIELDS})
    run = runs.Run(workdir, [python, "-c", STOP_IN_AN_EVALUATION, *arguments], runs.environment())
    state = os.waitid(os.P_PID, run.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert state.si_code == os.CLD_STOPPED, run.wait().stderr
    second = _train(world, workdir)
    assert second.code == 2
    assert second.stderr.count("\n") == 1 and f"pid {run.process.pid}" in second.stderr
    os.kill(run.process.pid, signal.SIGCONT)
    run.wait()
    assert (run.code, run.preempted_at) == (143, 4), run.stderr
    assert (workdir / "checkpoints" / "manifest-4.json").exists()
    assert [record["step"] for record in runs.numbers(workdir) if "knn/clip/top1" in record] == [0]
    assert runs.results(workdir)["outcome"] == "preempted"
    assert "**Preempted at step 4**" in (workdir / "report.md").read_text()
    (earlier,) = workdir.glob("earlier-*")
    assert {path.name: path.read_text() for path in earlier.iterdir()} == left
    resumed = _train(world, workdir)
    assert (resumed.code, resumed.resumed_at) == (0, 4), resumed.stderr
    assert kill_and_resume.differences(finished, workdir) == []


def test_a_flipped_bit_falls_back_with_one_warning(world, finished, tmp_path):
    copy = _copy(finished, tmp_path)
    largest = max((copy / "checkpoints" / "8").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    run = _train(world, copy)
    assert run.code == 0, run.stderr
    warnings = [line for line in run.stderr.splitlines() if line]
    assert len(warnings) == 1 and "checkpoint 8 rejected" in warnings[0] and "going on with step 6" in warnings[0]
    assert run.resumed_at == 6
    assert kill_and_resume.differences(finished, copy) == []


def test_a_changed_architecture_is_refused_with_the_paths(world, finished, tmp_path):
    copy = _copy(finished, tmp_path)
    before = (copy / "config.json").read_text()
    run = _train(world, copy, **{"model.clip.mlp_width": 16})
    assert run.code == 2
    assert "levels/clip/transformer/layers/layer_00/mlp_hidden/kernel" in run.stderr
    assert "model.clip.mlp_width 12 -> 16" in run.stderr
    assert "Traceback" not in run.stderr
    assert (copy / "config.json").read_text() == before
    assert kill_and_resume.differences(finished, copy) == []


def test_a_run_that_diverges_ends_with_3_and_its_state_apart(world, tmp_path):
    fields = {"optimizer.learning_rate": 1e30, "optimizer.name": "sgd", "optimizer.max_bad_updates": 2}
    # No checkpoint, no evaluation and no logged step at which it would be noticed anyway.
    fields |= {"logging.interval_steps": 100, "checkpoint.interval_steps": 100, "evaluation.interval": 0.0}
    run = _train(world, tmp_path / "run", quick=False, **fields, **{"optimizer.schedule": "constant"})
    assert run.code == 3 and run.stderr == "", run.stderr  # the pictures of zeros and NaN say nothing there, either
    results, report = runs.results(tmp_path / "run"), (tmp_path / "run" / "report.md").read_text()
    assert results["outcome"] == "diverged" and results["knn"]["clip"]["motion"]["evaluated_step"] == 0
    assert report.startswith("# Report\n\n**Diverged at step 4**") and "not trained yet" in report
    # Every update is beyond float32, and that the second one was is known two steps later.
    assert runs.results(tmp_path / "run")["steps"] == 4
    assert [path.name for path in (tmp_path / "run" / "diverged").glob("manifest-*.json")] == ["manifest-4.json"]
    assert "diverged: 2 updates in a row of frame, frame/predictors, clip, clip/predictors were" in run.stdout
    assert "by step 4;" in run.stdout and "lower optimizer.learning_rate" in run.stdout


def test_the_best_metric_goes_by_its_full_name():
    dataset = Dataset(pathlib.Path(), (), {"motion": ("left", "right"), "digit": ("0", "1")})
    levels = ("frame", "clip")
    assert results_lib.best_metric("", levels, dataset) == "linear/clip/motion/top1"
    assert results_lib.best_metric("knn/frame/top5", levels, dataset) == "knn/frame/motion/top5"
    assert results_lib.best_metric("mlp/frame/digit/top1", levels, dataset) == "mlp/frame/digit/top1"
    for name in ("knn/frame/digit", "knn/patch/top1", "knn/clip/digit/chance"):
        with pytest.raises(SettingsError, match="must be one of knn/frame/top1, .*mlp/clip/digit/top1"):
            results_lib.best_metric(name, levels, dataset)
    with pytest.raises(SettingsError, match="must be one of"):  # no evaluation writes it
        results_lib.best_metric("mlp/frame/digit/top1", levels, dataset, has_mlp=False)


def _layout(world, tmp_path, name, text) -> pathlib.Path:
    """A copy of the data without its videos but with annotation file `name` replaced."""
    root = tmp_path / "data"
    shutil.copytree(world / "digits" / "annotations", root / "annotations")
    shutil.copy(world / "digits" / "factors.csv", root)
    (root / "videos").symlink_to(world / "digits" / "videos")
    (root / "annotations" / name).write_text(text)
    return root


def test_bad_input_gets_one_line_and_code_2(world, tmp_path):
    climbing = _layout(world, tmp_path / "a", "trainlist01.txt", "../../../etc/passwd 1\n")
    empty = _layout(world, tmp_path / "b", "testlist01.txt", "")
    cases = {
        "wrong choice": ({"objective.distance": "mes"}, "did you mean 'mse'?"),
        "geometry": ({"data.height": 40}, "data.height = 40 is no multiple of 16 .* use 32 or 48"),
        "no data": ({"data.root": tmp_path / "none"}, "make it with: python -m hvt_jax make_digits --root="),
        "no ucf101": ({"data.root": tmp_path / "none", "data.name": "ucf101"}, "get UCF101.rar"),
        "empty list": ({"data.root": empty}, "testlist01.txt: is empty"),
        "climbing": ({"data.root": climbing}, "trainlist01.txt, row 1: '../../../etc/passwd' leads out of"),
        "frozen": ({"optimizer.frozen": ("clop",)}, "optimizer.frozen names clop; the groups are frame, "),
        "schedule": ({"train.num_epochs": 0.0}, "train.num_epochs = 0.0"),
    }
    for name, (fields, words) in cases.items():
        run = _train(world, tmp_path / "runs" / name, **fields)
        _is_one_line(name, run, words)
        assert not run.workdir.exists()


def test_bad_command_lines_get_one_line_and_code_2(world, tmp_path):
    """By the process's own exit code and output; every other kind of mistake is in test_cli.py."""
    workdir = f"--workdir={tmp_path / 'x'}"
    cases = {
        "misspelt key": (runs.command(tmp_path / "x", _fields(world, **{"train.bacth_size": 4})), "batch_size"),
        "no data": (runs.command(tmp_path / "x", _fields(world, **{"data.root": "/nowhere"})), "make_digits --root="),
        "no workdir": ([*runs.command("", {})[:3], "--config=configs/digits.py"], "--workdir is missing"),
        "no config": ([*runs.command("", {})[:3], workdir], "--config is missing"),
        "stray word": ([*runs.command(tmp_path / "x", {}), "fast"], "unknown argument 'fast'"),
    }
    started = {name: runs.Run(tmp_path / "x", arguments, runs.environment()) for name, (arguments, _) in cases.items()}
    for name, run in started.items():
        _is_one_line(name, run.wait(), cases[name][1])
    assert not (tmp_path / "x").exists()


def _is_one_line(name, run, words):
    assert run.code == 2, (name, run.code, run.stderr[-2000:])
    lines = [line for line in run.stderr.splitlines() if line]
    assert len(lines) == 1 and re.search(words, lines[0]), (name, run.stderr[-2000:])


def test_describe_prints_and_leaves_nothing(world, tmp_path):
    fields = {name: value for name, value in runs.FIELDS.items()}
    arguments = [
        argument for argument in runs.command(tmp_path / "x", fields, "--describe") if "workdir" not in argument
    ]
    run = runs.Run(tmp_path / "x", arguments, runs.environment()).wait()
    assert run.code == 0, run.stderr
    edges = [line for line in run.stdout.splitlines() if line.startswith(("edges", "silent"))]
    assert edges == [
        "edges     frame->frame/side (weight 1), clip->frame/down (weight 1)",
        "silent    frame->clip/up: one token a video leaves nothing to choose from",
    ]
    assert list(tmp_path.iterdir()) == []
