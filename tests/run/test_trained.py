"""The model of a run, opened again: the parameters it ended with, the checkpoint asked for, clear refusals."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from hvt_jax.engine import program_cache
from hvt_jax.run import leaves, trained
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import SettingsError
from tests import runs


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return runs.finished_run(tmp_path_factory, folder)


def _score(folder, step, value):
    """Write another score of the best metric into the manifest of a step."""
    from hvt_jax.run import seals

    name = "linear/clip/motion/top1"
    record = seals.read_manifest(str(folder), step)
    seals.add_metrics(str(folder), step, {name: value}, record["tests"])


def test_the_last_checkpoint_has_what_the_run_ended_with(ended):
    opened, results = trained.open_run(ended, "last"), json.loads((ended / "results.json").read_text())
    assert opened.step == results["steps"] and opened.levels == ("frame", "clip")
    assert leaves.parameter_digest(opened.params) == results["parameter_digest"]
    video = np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), np.uint8)
    found = opened.compile()({"video": video, "index": np.arange(4)})
    assert {name: value.shape for name, value in found.items()} == {"frame": (4, 8), "clip": (4, 10), "index": (4,)}
    fresh = opened.untrained()
    assert fresh.step == 0 and fresh.digest != opened.digest and fresh.digest == fresh.untrained().digest


def test_the_best_checkpoint_is_that_of_the_metric(ended):
    checkpoints = ended / "checkpoints"
    steps = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    for best in steps:
        for step in steps:
            _score(checkpoints, step, 90.0 if step == best else 10.0)
        assert trained.open_run(ended).step == best
    assert trained.open_run(ended, str(steps[0])).step == steps[0]


def test_levels_are_chosen_by_name(ended):
    model = trained.open_run(ended, "last")
    assert [model.choose_levels(names) for names in ("all", "", "clip,frame", " clip")] == [
        *[("frame", "clip")] * 3,
        ("clip",),
    ]
    for names, unknown in (("clip,sequence", "sequence"), ("patch", "patch"), ("frame,scene", "scene")):
        with pytest.raises(
            SettingsError, match=f"--levels={names}: the model has no level '{unknown}', but frame, clip"
        ):
            model.choose_levels(names)


def test_refusals(ended, tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json: No such file.*give the folder of a run"):
        trained.open_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step '77'; there are \["):
        trained.open_run(ended, "77")
    (tmp_path / "config.json").write_text((ended / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has no checkpoint; there are none"):
        trained.open_run(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="damaged"):
        trained.open_run(tmp_path)


@pytest.mark.parametrize(("named", "kept"), [("none", "none"), ("auto", "auto"), ("/proc/of_somebody_else", "auto")])
def test_programs_are_never_read_from_a_folder_that_a_run_names(ended, tmp_path, monkeypatch, named, kept):
    """Compiled programs are code, and a run may come from anywhere."""
    copy = pathlib.Path(shutil.copytree(ended, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    config["train"]["compilation_cache"] = named
    (copy / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(program_cache, "keep_programs", asked.append)
    trained.open_run(copy, "last")
    assert asked == [kept]
