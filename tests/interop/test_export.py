"""Export: reloaded it gives the same numbers, each file by itself; it appears whole or not at all."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from hvt_jax.interop import export, model_files, safetensors_io, stablehlo
from hvt_jax.run import leaves, trained
from hvt_jax.run.seals import CheckpointError
from tests import runs

LEVELS = ("frame", "clip")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return runs.finished_run(tmp_path_factory, folder)


@pytest.fixture(scope="module")
def exported(ended):
    folder = ended.parent / "exported"
    return folder, export.export(str(ended), str(folder), "last")


@pytest.fixture(scope="module")
def features(ended):
    """A video with two rows for each device, and what the run's model makes of it."""
    model = trained.open_run(ended, "last")
    video = np.random.default_rng(1).integers(0, 256, (8, 4, 32, 32, 3), np.uint8)
    return model, video, jax.device_get(model.compile()({"video": video}))


def test_the_folder_gives_the_same_numbers(exported, features):
    folder, done = exported
    model, video, expected = features
    opened = model_files.open_model(folder)
    assert (opened.step, opened.digest, opened.levels) == (model.step, model.digest, LEVELS) and done.step == model.step
    assert done.values == sum(leaf.size for leaf in jax.tree.leaves((model.params, model.stats)))
    found = opened.compile()({"video": video})
    for level in LEVELS:
        np.testing.assert_array_equal(found[level], expected[level])
    assert opened.settings.data.root == "" and opened.settings.model == model.settings.model
    assert all(difference < 1e-4 for difference in done.differences.values())
    assert {"model.safetensors", "orbax", "encode.stablehlo"} == done.differences.keys()


def test_the_program_takes_any_number_of_videos(exported, features):
    folder, _ = exported
    _, video, expected = features
    arrays = safetensors_io.read_arrays(folder / "model.safetensors")
    program = (folder / "encode.stablehlo").read_bytes()
    for count in (1, 3):
        found = stablehlo.run(program, arrays, video[:count])
        for level in LEVELS:
            np.testing.assert_allclose(found[level], expected[level][:count], atol=1e-5)
    from jax import export as jax_export

    assert set(jax_export.deserialize(bytearray(program)).platforms) == {"cpu", "cuda"}


def test_orbax_alone_restores_the_parameters(exported, features):
    from orbax.checkpoint import v1 as ocp

    folder, _ = exported
    model = features[0]
    flat = leaves.flatten({"params": model.params, "stats": model.stats})
    restored = ocp.load(folder / "orbax")
    assert restored.keys() == flat.keys()
    for name, array in restored.items():
        np.testing.assert_array_equal(array, flat[name])


def test_the_script_needs_neither_this_package_nor_flax(exported):
    """Both are barred from import; an environment without them is what docs/using.md shows."""
    folder, _ = exported
    barred = "import runpy, sys\nfor name in ('hvt_jax', 'flax', 'optax', 'orbax'): sys.modules[name] = None\n"
    code = f"{barred}sys.argv = ['run_exported.py']\nrunpy.run_path({str(folder / 'run_exported.py')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == sorted(LEVELS)
    assert all(float(line.split()[-1]) < 1e-4 for line in lines)


def test_the_card_has_the_measured_numbers(exported, ended):
    text, results = (exported[0] / "README.md").read_text(), runs.results(ended)
    for level in LEVELS:
        scores = results["linear"][level]["motion"]
        assert f"{scores['top1']:.1f} ({scores['untrained_top1']:.1f})" in text
    assert "12.5" in text and "uint8 [B, 4, 32, 32, 3]" in text
    config = json.loads((exported[0] / "config.json").read_text())
    assert config["preprocessing"]["decoded_height"] == 32 and config["levels"] == {"frame": 8, "clip": 10}
    root = json.loads((ended / "config.json").read_text())["data"]["root"]
    assert root.startswith("/") and root not in json.dumps(config) + text and str(ended) not in text


def test_nothing_appears_where_a_file_gives_other_numbers(ended, monkeypatch, tmp_path):
    monkeypatch.setattr(
        stablehlo, "run", lambda *_: {level: np.ones((4, 8 if level == "frame" else 10)) for level in LEVELS}
    )
    with pytest.raises(CheckpointError, match="reloaded it gives features that differ by .* nothing was exported"):
        export.export(str(ended), str(tmp_path / "out"), "last")
    assert os.listdir(tmp_path) == []


def test_refusals(exported, ended, tmp_path):
    folder, _ = exported
    with pytest.raises(CheckpointError, match="is there and not empty"):
        export.export(str(ended), str(folder), "last")
    with pytest.raises(CheckpointError, match="and has no other"):
        model_files.open_model(folder, "7")
    content = json.loads((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for change, line in {
        ("format", "hvt-jax-export/2"): "export of another version",
        ("step", "many"): "is damaged",
        ("parameter_digest", "0" * 64): "holds other numbers",
    }.items():
        (tmp_path / "config.json").write_text(json.dumps(content | dict([change])))
        with pytest.raises(CheckpointError, match=line):
            model_files.open_model(tmp_path)
    content["config"]["model"]["frame"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not fit the config"):
        model_files.open_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model.frame.width": 8}))
    with pytest.raises(CheckpointError, match=r"start a run from them: --config.model.initial_weights=.*safetensors"):
        model_files.open_model(tmp_path)
