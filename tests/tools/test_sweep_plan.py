"""Sweeps as config files say them: combinations, names that are folders, the original's numbers, refusals."""

import pathlib
import re

import pytest

from hvt_jax import settings as settings_lib
from hvt_jax.settings import SettingsError, reader
from hvt_jax.tools import sweep_plan
from tests import golden_files

KNOWN = reader.field_names(settings_lib.Settings)


def _read(sweep, seeds=None):
    return sweep_plan.read(sweep, KNOWN, seeds)


def test_a_grid_is_every_combination_the_last_field_first():
    grid = {"optimizer.learning_rate": (1e-3, 2e-3), "objective.distance": ("mse", "contrastive")}
    sweep = _read({"grid": grid})
    assert [setting.name for setting in sweep.settings] == [
        "learning_rate=0.001,distance=mse",
        "learning_rate=0.001,distance=contrastive",
        "learning_rate=0.002,distance=mse",
        "learning_rate=0.002,distance=contrastive",
    ]
    assert sweep.settings[1].fields == {"optimizer.learning_rate": 1e-3, "objective.distance": "contrastive"}
    assert sweep.seeds == (0, 1, 2)


def test_runs_come_seed_by_seed_in_folders_of_their_own():
    sweep = _read({"grid": {"objective.side": (True, False)}, "seeds": [3, 7]})
    runs = sweep.runs(pathlib.Path("runs/x"))
    assert [run.name for run in runs] == [f"objective.side={on}/seed{seed}" for seed in (3, 7) for on in (True, False)]
    assert runs[1].folder == pathlib.Path("runs/x/objective.side=False/seed3")
    assert runs[1].log == pathlib.Path("runs/x/objective.side=False/seed3.log")
    assert runs[1].arguments("configs/digits.py:smoke", {"data.root": "my data", "data.mean": (0.1, 0.2, 0.3)}) == [
        "--config=configs/digits.py:smoke",
        "--config.data.root=my data",
        "--config.data.mean=(0.1, 0.2, 0.3)",
        "--config.objective.side=False",
        "--config.seed=3",
        "--workdir=runs/x/objective.side=False/seed3",
    ]


def test_settings_one_by_one_have_names_made_or_given():
    made = _read({"settings": [{}, {"model.frame.depth": 4, "method": "joint"}, {"train.batch_size": 8}]}).settings
    assert [setting.name for setting in made] == ["base", "frame.depth=4,method=joint", "train.batch_size=8"]
    given = _read({"settings": {"as it is": {}, "deep": {"model.frame.depth": 4}}, "seeds": (0,)}).settings
    assert [(setting.name, setting.fields) for setting in given] == [
        ("as_it_is", {}),
        ("deep", {"model.frame.depth": 4}),
    ]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("optimizer.learning_rate", "learning_rate"),
        ("model.frame.depth", "frame.depth"),  # clip and sequence have one
        ("model.frame.width", "frame.width"),
        ("data.width", "data.width"),  # the stem's and every level's end in width, too
        ("objective.edge_weights.clip.up", "clip.up"),
        ("objective.side", "objective.side"),  # the weights of edges end in it
        ("method", "method"),
    ],
)
def test_names_are_as_short_as_leaves_no_doubt(field, name):
    assert sweep_plan.short_name(field, KNOWN) == name


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.001, "0.001"),
        (1e-5, "1e-05"),
        (-3, "-3"),
        (False, "False"),
        ("patch-frame", "patch-frame"),
        ((256, 256), "256+256"),
        ((64,), "64"),
        ((), "none"),
        (("frame", "frame/predictors"), "frame+frame_predictors"),
        ("../../etc; rm", ".._.._etc__rm"),
        ("ü a", "__a"),
        ("", ""),
    ],
)
def test_values_in_names_are_safe(value, shown):
    assert sweep_plan.setting_name({"x": value}, {"x": "f"}) == f"f={shown}"


def test_no_name_leads_out_of_the_folder():
    for value, name in (("..", "_."), ("/root", "_root"), ("-x", "_x"), ("", "base")):
        assert sweep_plan.setting_name({"x": value}, {"x": ""}) == name
    assert _read({"settings": {"../x": {}}}).settings[0].name == "_._x"


def test_values_of_numpy_are_numbers():
    import numpy as np

    sweep = _read({"grid": {"optimizer.learning_rate": np.array([0.25, 0.5]), "train.batch_size": [np.int64(8)]}})
    assert [setting.name for setting in sweep.settings] == [
        "learning_rate=0.25,train.batch_size=8",
        "learning_rate=0.5,train.batch_size=8",
    ]
    run = sweep.runs(pathlib.Path("x"))[0]
    assert run.arguments("c.py", {})[1:3] == ["--config.optimizer.learning_rate=0.25", "--config.train.batch_size=8"]


GRID = {"objective.distance": ["mse", "cosine"]}


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        ([], "get_sweep() returns a list, but must return a dict with a grid"),
        ({"grdi": {}}, "get_sweep() has 'grdi', but only grid, settings, seeds, names are known"),
        ({"seeds": [1]}, "get_sweep() must have one of grid and settings"),
        ({"grid": GRID, "settings": []}, "get_sweep() must have one of grid and settings"),
        ({"grid": {}}, "the sweep's grid is {}, but must be {field: values}"),
        ({"grid": {"objective.distance": "mse"}}, "objective.distance = 'mse', but must have a list of values"),
        ({"grid": {"objective.distance": []}}, "objective.distance = [], but must have a list of values"),
        ({"grid": {"seed": [1, 2]}}, "get_sweep() sweeps seed; give it as seeds"),
        ({"grid": GRID, "seeds": 3}, "seeds = 3, but must be a list of whole numbers, such as (0, 1, 2)"),
        ({"grid": GRID, "seeds": []}, "seeds = [], but must be a list of whole numbers"),
        ({"grid": GRID, "seeds": [0.5]}, "seeds = [0.5], but must be a list of whole numbers"),
        ({"grid": GRID, "seeds": [1, 1]}, "the same seed twice is one run"),
        ({"grid": GRID, "names": {"objective.side": "s"}}, "names objective.side, which it does not sweep"),
        ({"grid": GRID, "names": ["d"]}, "the sweep's names are ['d'], but must be {field: short name}"),
        ({"grid": {"objective.distance": ["mse", "mse"]}}, "two settings would share the folder distance=mse"),
        ({"grid": {"data.root": ["a/b", "a_b"]}}, "two settings would share the folder root=a_b: {'data.root': 'a/b'}"),
        ({"settings": {"Deep": {}, "deep": {}}}, "two settings would share the folder deep"),
        ({"settings": [["x"]]}, "the sweep's settings have ['x'], but must have a dict of {field: value} there"),
        ({"settings": "x"}, "the sweep's settings are 'x', but must be a list"),
        ({"grid": {"data.root": ["x" * 300]}}, "a setting's name has 305 letters, but must have 1 to 200"),
        ({"settings": {"": {}}}, "a setting's name has 0 letters"),
    ],
)
def test_refusals(sweep, line):
    with pytest.raises(SettingsError) as caught:
        _read(sweep)
    assert line in str(caught.value) and "\n" not in str(caught.value)


# What the original's script was called with; the file of numbers has them for one of its three sweeps only.
BASE = "christmas_st"
NAMES = {
    "arch:groups": "gr",
    "train:use_single_optimizer": "opt",
    "train:predictor:pred_aside": "pA",
    "train:loss_fn": "LFn",
}


def _check_golden(golden):
    """Compare our settings and names with the original's configs, in their order.

    Its names are ours with other signs between the parts, and with letters of values changed where they hold its own
    sign. Groups and switches it calls B or noB, 1 or 0: here such names are given with the values.
    """
    base = golden.get("base") or {"train": {"model_name": BASE}}
    names = golden.get("names") or NAMES
    grid = {}
    for field, values in golden["sweep"].items():
        if field == "arch:groups":
            values = {"B" if "backbone" in value else "noB": value for value in values}
        elif all(isinstance(value, bool) for value in values):
            values = {str(int(value)): value for value in values}
        grid[field] = values
    sweep = sweep_plan.read({"grid": grid, "names": names}, list(grid))
    assert len(sweep.settings) == len(golden["configs"]) > 1
    for setting, config in zip(sweep.settings, golden["configs"], strict=True):
        theirs = {}
        for field in grid:
            node = config
            for part in field.split(":"):
                node = node[part]
            theirs[field] = node
        assert dict(setting.fields) == theirs
        parts = [re.sub("_(.)", lambda found: found[1].upper(), part) for part in setting.name.split(",")]
        called = "_".join([base["train"]["model_name"], *parts]).replace("=", "-")
        assert called == config["train"]["model_name"]


@golden_files.each_misc("sweep_ST")
def test_the_original_sweeps_two_levels_alike(golden):
    _check_golden(golden)


@golden_files.each_misc("sweep_STC")
def test_the_original_sweeps_three_levels_alike(golden):
    _check_golden(golden)


@golden_files.each_misc("sweep_underscore_and_empty_name")
def test_the_original_leaves_out_empty_names_alike(golden):
    _check_golden(golden)


def test_values_that_the_original_calls_alike_have_names_of_their_own():
    sweep = _read({"grid": {"data.root": ["soft_max", "softMax2"], "train.fsdp": [True]}, "names": {"data.root": ""}})
    assert [setting.name for setting in sweep.settings] == ["soft_max,fsdp=True", "softMax2,fsdp=True"]
