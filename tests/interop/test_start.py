"""Starting weights: what the file holds is in the state of step 0, the rest is fresh, and a table says so."""

import contextlib
import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from hvt_jax.engine import sharding
from hvt_jax.interop import safetensors_io, start
from hvt_jax.run import loop
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import SettingsError
from tests import small

FIELDS = {"model.frame.qkv_bias": True, "model.frame.norm_epsilon": 1e-6}


@pytest.fixture(scope="module")
def fresh():
    definition = small.define(**FIELDS)
    whole = sharding.replicated(sharding.make_mesh(definition.settings.train))
    return definition.settings, jax.device_put(small.new_state(definition), whole)


def _import_of(state, path, change=lambda tree: tree):
    """Write stem and frame level of `state`, every number plus 1, as an import would."""
    frame = {name: node for name, node in state.params["levels"]["frame"].items() if name != "predictors"}
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, {"stem": state.params["stem"], "levels": {"frame": frame}})
    safetensors_io.save_variables(path, change(params), {})


def _start(settings, state, path):
    lines = []
    model = dataclasses.replace(settings.model, initial_weights=str(path))
    return start.start_from(dataclasses.replace(settings, model=model), state, lines.append), "\n".join(lines)


def test_what_is_in_the_file_replaces_what_is_fresh(fresh, tmp_path):
    settings, state = fresh
    _import_of(state, tmp_path / "w.safetensors")
    started, said = _start(settings, state, tmp_path / "w.safetensors")
    before, after = small.named_leaves(state.params), small.named_leaves(started.params)
    assert before.keys() == after.keys()
    for name, values in after.items():
        is_imported = name.startswith(("stem/", "levels/frame/")) and "predictors" not in name
        np.testing.assert_array_equal(values, before[name] + is_imported)
    same = jax.tree.map(lambda one, other: one.sharding == other.sharding, started, state)
    assert all(jax.tree.leaves(same)) and int(started.step) == 0
    rows = {line.split()[0]: [int(count) for count in line.split()[1:]] for line in said.splitlines()[2:]}
    own = len(jax.tree.leaves(state.params["levels"]["frame"])) - len(
        jax.tree.leaves(state.params["levels"]["frame"]["predictors"])
    )
    assert rows["frame"] == [own, 0, 2, 0]  # fresh: mean and variance of the output norm
    assert rows["clip"][0] == rows["frame/predictors"][0] == 0 and rows["stem"][0] == 4


def test_what_does_not_fit_is_named(fresh, tmp_path):
    settings, state = fresh

    def change(params):
        params["levels"]["frame"]["registers"] = {"table": np.zeros((4, 8), np.float32)}
        params["stem"]["embedding"]["bias"] = np.zeros(7, np.float32)
        return params

    _import_of(state, tmp_path / "w.safetensors", change)
    _, said = _start(settings, state, tmp_path / "w.safetensors")
    assert "unused, as this model has no such array: levels/frame/registers/table" in said
    assert "fresh, as the file has another shape: stem/embedding/bias" in said
    safetensors_io.save_variables(tmp_path / "n.safetensors", {"backbone": {"x": np.zeros(3)}}, {})
    with pytest.raises(CheckpointError, match="none of its 1 arrays has a place"):
        _start(settings, state, tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        _start(settings, state, tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model.frame.norm_epsilon": 1e-5}, "config.model.frame.norm_epsilon = 1e-06, but .* with 1e-05; set"),
        ({"config": {"model": {"frame": {"num_heads": 4}}}}, "config.model.frame.num_heads = 2, but .* with 4; set"),
        (
            {"data.mean": [0.5, 0.5, 0.5]},
            r"config.data.mean = \(0.45, .* with \(0.5, 0.5, 0.5\); set --config.data.mean='",
        ),
        ({"model.sequence.num_heads": 7, "model.frame.num_heads": 2}, ""),
        ({"config": {"model": {"hierarchy": "patch-frame", "clip": {"num_heads": 9}}}}, ""),  # it has no clip level
    ],
)
def test_settings_that_no_shape_shows_must_agree(fresh, tmp_path, config, line):
    settings, state = fresh
    _import_of(state, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    if line:
        with pytest.raises(SettingsError, match=line):
            _start(settings, state, tmp_path / "w.safetensors")
    else:
        _start(settings, state, tmp_path / "w.safetensors")


def test_a_run_starts_from_them(fresh, tmp_path):
    """By the loop that the command calls; one that is given no reader refuses."""
    settings, state = fresh
    _import_of(state, tmp_path / "w.safetensors")
    model = dataclasses.replace(settings.model, initial_weights=str(tmp_path / "w.safetensors"))
    definition = dataclasses.replace(small.define(**FIELDS), settings=dataclasses.replace(settings, model=model))
    notes = []
    log = types.SimpleNamespace(busy=lambda _: contextlib.nullcontext(), note=notes.append)
    parts = {"definition": definition, "log": log, "compiled": types.SimpleNamespace(initialise=lambda: state)}
    parts |= dict.fromkeys(("plan", "saved", "folder", "train_set", "test_set"))
    started = loop.Run(**parts, start_from=start.start_from).initialise()
    assert len(notes) > 5
    np.testing.assert_array_equal(
        started.params["stem"]["embedding"]["bias"], state.params["stem"]["embedding"]["bias"] + 1
    )
    with pytest.raises(SettingsError, match="is read by python -m hvt_jax.main"):
        loop.Run(**parts).initialise()
