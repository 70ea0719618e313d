"""A curriculum of two tiny stages: what it leaves, stopped anywhere and resumed bit for bit, and what it refuses."""

import json
import pathlib
import re
import shutil
import signal
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from hvt_jax.commands import cli, curriculum_run
from hvt_jax.interop import hand_over, safetensors_io
from hvt_jax.run import run_log, trained
from hvt_jax.tools import curriculum_report
from tests import kill_and_resume, runs

SHORT, LONG = 8, 4  # steps; the first stage is the run of `runs.finished_run`, which is compiled already


def _config(data: pathlib.Path) -> ConfigDict:
    """Clips of 4 frames, then sequences of 4 clips of 2."""
    base = digits.get_config().copy_and_resolve_references()
    base.update_from_flattened_dict(runs.FIELDS | {"data.root": str(data)})
    config = ConfigDict({"base": base, "order": ("short", "long"), "hand_over": "best", "grow": "interpolate"})
    config.stages = {
        "short": {"seed": 42},
        "long": {
            "model": {"hierarchy": "frame-clip-sequence", "num_clips": 4},
            "data": {"num_frames": 8},
            "train": {"num_epochs": 1.0},
        },
    }
    return config


def _run(config: ConfigDict, workdir: pathlib.Path | None, dry_run: bool = False) -> int:
    """Do what the command does after its flags are parsed; return its exit code."""
    with runs.in_this_process(quick=True):
        return cli.run(lambda: curriculum_run.run(config, str(workdir), dry_run=dry_run), output=str(workdir))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.make_data(tmp_path_factory.mktemp("curriculum") / "digits")


@pytest.fixture(scope="module")
def finished(data):
    """The folder of a curriculum that nothing disturbed."""
    assert _run(_config(data), data.parent / "run") == 0
    return data.parent / "run"


def test_what_it_leaves_behind(finished):
    content = json.loads((finished / "curriculum.json").read_text())
    assert content["outcome"] == "done" and [row["folder"] for row in content["stages"]] == ["1_short", "2_long"]
    short, long = content["stages"]
    assert (short["steps"], short["videos"], long["num_frames"]) == (SHORT, 4 * SHORT, 8)
    assert short["training_flops"] == 3e6 * SHORT and content["total"]["training_flops"] == 3e6 * (SHORT + LONG)
    assert long["verdicts"].keys() == {"frame", "clip", "sequence"} and "motion" in long["verdicts"]["clip"]
    assert "began_with" not in short and long["began_with"]["source"] == "1_short"
    for row in (short, long):
        results = runs.results(finished / row["folder"])
        assert results["outcome"] == "done" and results["parameter_digest"] == row["parameter_digest"]
    report = (finished / "report.md").read_text()
    begin = f"step {long['began_with']['step']} of 1_short"
    assert f"| [long](2_long/report.md) | frame-clip-sequence | 8 | {begin} | 4 | 16 |" in report
    assert "| all | | | | 12 | 48 |" in report


def test_a_stage_begins_with_the_best_of_the_one_before(finished):
    model = trained.open_run(finished / "1_short", "best")
    assert hand_over.read_source(str(finished / "2_long"))["digest"] == model.digest
    params, _ = safetensors_io.load_variables(finished / "2_long" / "initial" / "model.safetensors")
    np.testing.assert_array_equal(params["levels"]["clip"]["positions"]["table"].shape, (5, 10))
    lines = (finished / "2_long" / "initial" / "arrays.txt").read_text().splitlines()
    kinds = {line.split()[1]: line.split()[0] for line in lines}
    assert kinds["levels/clip/positions/table"] == "grown" and kinds["stem/embedding/kernel"] == "copied"
    assert {kind for name, kind in kinds.items() if name.startswith("levels/sequence")} == {"new"}
    # Of the untrained network: with the weights handed over it is another one than the fresh one.
    config = json.loads((finished / "2_long" / "config.json").read_text())
    assert config["model"]["initial_weights"] == str(finished / "2_long" / "initial" / "model.safetensors")


class _Killed(Exception):
    """In the place of a kill: nothing of the program handles it."""


def _stop_at(patch, step):
    keep = run_log.RunLog.keep

    def stop(log, now, scalars):
        if now == step:
            raise _Killed
        return keep(log, now, scalars)

    patch.setattr(run_log.RunLog, "keep", stop)


def test_stopped_anywhere_it_resumes_there_bit_for_bit(data, finished, monkeypatch, capsys):
    """In a step of either stage, while weights are handed over, and after a stage before that is written down."""
    workdir, config = data.parent / "stopped", _config(data)

    def killed():
        with pytest.raises(_Killed):
            _run(config, workdir)
        monkeypatch.undo()
        return capsys.readouterr().out

    _stop_at(monkeypatch, 6)
    assert "stage 1 of 2, short, " in killed()
    monkeypatch.setattr(curriculum_report, "read_stage", _raise)
    assert "resumed at step 4" in killed()  # trained to its end, which nobody wrote down
    monkeypatch.setattr(safetensors_io, "save_variables", _raise)
    said = killed()
    assert "resumed at step 8" in said and (workdir / "2_long" / "initial" / "config.json").exists()
    _stop_at(monkeypatch, LONG)
    said = killed()
    assert "stage 1 of 2, short: done before" in said and re.search(r"from step \d of 1_short \(best\)", said)
    assert _run(config, workdir) == 0
    said = capsys.readouterr().out
    assert "short: done before" in said and said.count("resumed at step") == said.count("resumed at step 3") == 1
    for stage in ("1_short", "2_long"):
        assert kill_and_resume.differences(finished / stage, workdir / stage) == []
    weights = [folder / "2_long" / "initial" / "model.safetensors" for folder in (finished, workdir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def _raise(*_):
    raise _Killed


def test_what_is_done_is_not_done_again_and_not_changed(data, finished, tmp_path, capsys):
    copy = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    assert _run(_config(data), copy) == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 2 and "run       " not in said
    harmless = _config(data)
    harmless.base.data.read_threads, harmless.base.logging.interval_steps = 3, 7
    assert _run(harmless, copy) == 0
    for change, line in (
        ({"stages.short.seed": 2}, "stage short: config.seed = 2, but it is done, with 42, in .*1_short; set it so"),
        ({"base.train.batch_size": 8}, "stage short: config.train.batch_size = 8, but it is done, with 4"),
        ({"order": ("long",)}, "has run the stages short, long, but config.order is long; begin as before"),
        ({"grow": "rows"}, "config.grow = rows, but .* began with interpolate; set it so"),
    ):
        config = _config(data)
        config.update_from_flattened_dict(change)
        capsys.readouterr()
        assert _run(config, copy) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(line, error), error
    (copy / "curriculum.json").write_text("{}")
    assert _run(_config(data), copy) == 2 and "curriculum.json is damaged" in capsys.readouterr().err


def test_all_stages_are_refused_before_the_first_one_trains(data, tmp_path, capsys):
    for change, line in (
        ({"stages.long.data.num_frames": 6}, "stage long: data.num_frames = 6 cannot be cut"),
        ({"stages.long.data.root": str(tmp_path / "nowhere")}, "stage long: .*nowhere"),
        ({"stages.long.checkpoint": {"best_metric": "knn/scene/top1"}}, "stage long: checkpoint.best_metric"),
        ({"stages.long.evaluation": {"batch_size": 3}}, "stage long: evaluation.batch_size = 3 cannot be shared by 4"),
        (
            {"stages.long.model.frame": {"head_width": 2}},
            "stage long: config.model.frame.head_width = 2, but stage sho",
        ),
    ):
        config = _config(data)
        for name, value in change.items():
            *groups, field = name.split(".")
            node = config
            for group in groups:
                node = node[group]
            node[field] = value
        assert _run(config, tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(line, error), error
        assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_stages_and_every_array(data, capsys):
    assert _run(_config(data), None, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "levels", "frames", "pixels", "steps", "videos", "TFLOP"]
    assert lines[2].split() == ["long", "frame-clip-sequence", "8", "32x32", "4", "16", "0.00"]
    assert "stage long, starting from stage short; arrays" in lines
    assert any(line.split()[:2] == ["grown", "levels/clip/positions/table"] for line in lines)


def test_the_folder_of_a_run_is_none_of_a_curriculum(data, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n')
    assert _run(_config(data), tmp_path) == 2
    assert "is the folder of one run; a curriculum needs its own" in capsys.readouterr().err


def test_a_stage_that_ends_otherwise_ends_the_curriculum(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log.RunLog, "keep", lambda *_: True)  # a label has diverged
    assert _run(_config(data), tmp_path / "run") == 3
    content = json.loads((tmp_path / "run" / "curriculum.json").read_text())
    assert [row["outcome"] for row in content["stages"]] == ["diverged"] and content["outcome"] == "running"
    assert not (tmp_path / "run" / "2_long").exists()


@pytest.mark.long
def test_killed_in_every_stage_it_ends_bit_for_bit_as_if_nothing_had_happened(data, tmp_path):
    """By SIGKILL, in processes of their own: in a step of either stage, and while the second one begins."""
    fields = {f"base.{name}": value for name, value in runs.FIELDS.items()} | {"base.data.root": data}
    fields |= {"base.model.hierarchy": "patch-frame-clip-sequence", "base.model.num_clips": 2}
    fields |= {f"stages.{name}.train.num_epochs": 2.0 for name in ("short", "long")} | {"order": ("short", "long")}

    def start(workdir, stage):
        words = [f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in fields.items())]
        arguments = ["-m", "hvt_jax", "curriculum", "--config=configs/curriculum_digits.py", *words]
        return runs.Run(workdir / stage, [sys.executable, *arguments], runs.environment())

    reference, killed = tmp_path / "reference", tmp_path / "killed"
    assert start(reference, "2_long").wait(1200).code == 0
    for stage, step in (("1_short", 5), ("2_long", 1), ("2_long", 6)):
        run = start(killed, stage)
        assert run.wait_for_step(step, 1200)
        assert run.kill().code == -signal.SIGKILL
    run = start(killed, "2_long").wait(1200)
    assert run.code == 0 and "short: done before" in run.stdout, run.stderr
    for stage in ("1_short", "2_long"):
        assert kill_and_resume.differences(reference / stage, killed / stage) == []
