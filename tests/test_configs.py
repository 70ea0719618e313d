"""Every config builds, describes itself and takes a step; the reader answers each mistake with one line."""

import ast
import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
import types
import typing

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from hvt_jax.engine import steps
from hvt_jax.interop import original_config
from hvt_jax.run import describe
from hvt_jax.settings import Settings, SettingsError, read_settings, reader
from tests import small

FOLDER = pathlib.Path(__file__).parent.parent / "configs"


def _ranges(kind, prefix=""):
    """Return {dotted name: range} of the fields of `kind` that have one."""
    found = {}
    for name, child in typing.get_type_hints(kind, include_extras=True).items():
        child = typing.get_args(child)[0] if typing.get_origin(child) is types.UnionType else child
        if dataclasses.is_dataclass(child):
            found |= _ranges(child, f"{prefix}{name}.")
        elif typing.get_origin(child) is typing.Annotated:
            found[f"{prefix}{name}"] = typing.get_args(child)[1]
    return found


RANGES = _ranges(Settings)
# Those of single runs; a curriculum is read stage by stage (tests/tools/test_curriculum.py).
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("__init__", "curriculum_")))


def _module(name):
    spec = importlib.util.spec_from_file_location(f"configs.{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_a_locked_document_that_can_be_read(name):
    module = _module(name)
    assert len(module.__doc__.strip().splitlines()) > 2
    config = module.get_config()
    assert isinstance(config, ConfigDict) and config.is_locked
    definition = steps.define(read_settings(config))
    edges = len(definition.hierarchy.edges)
    assert edges == 0 if config.method == "supervised" else edges >= 2
    with pytest.raises(AttributeError):
        config.train.bacth_size = 3


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "original"])
def test_every_config_avoids_two_faults_of_the_original(name):
    """Both are settings here, so that no other test would notice a default that brings them back.

    A momentum of 0.999 leaves evaluation statistics unset for thousands of steps; a predictor without hidden
    layers adapts together with its encoder, which helps them to collapse.
    """
    settings = read_settings(_module(name).get_config())
    model = settings.model
    assert model.stem.norm_momentum <= 0.9
    for level in ("patch", "frame", "clip", "sequence") if settings.method != "supervised" else ():  # no predictors
        sizes = getattr(model, level)
        assert sizes.predictor_hidden == (2 * sizes.width,), level


@pytest.mark.parametrize("method", ["vicreg", "svt", "brave", "jepa", "mae"])
def test_every_method_has_its_papers_settings(method):
    module = _module("methods")
    definition = steps.define(read_settings(module.get_config(f"{method},smoke")))
    assert definition.settings.method == method and definition.settings.data.height == 64
    assert definition.hierarchy.edges == ()
    whole = read_settings(module.get_config(method))
    norm = "batch" if method in ("vicreg", "brave") else "layer"
    assert whole.data.height == 112 and whole.model.sequence.output_norm == norm
    with pytest.raises(ValueError, match="configs/methods.py:svd is unknown"):
        module.get_config("svd")


def _small_definition(name):
    config = _module(name).get_config()
    fields = {"model.stem.patch_size": 2} if config.model.stem.kind == "conv" else {}
    if config.model.encoder == "s3d":
        fields = {"model.clip.width": 1024, "data.num_frames": 8, "data.height": 32, "data.width": 32}
    return steps.define(read_settings(small.small_config(config, **small.NO_AUGMENTATION, **fields)))


@functools.cache
def _trace_step(method, sizes, model, augmentation, objective, optimizer) -> None:
    """Trace a step of small videos: what it is made of is compiled elsewhere, of each kind once."""
    parts = {"model": model, "augmentation": augmentation, "objective": objective, "optimizer": optimizer}
    settings = small.small_settings()
    data = dataclasses.replace(settings.data, **dict(sizes))
    definition = steps.define(dataclasses.replace(settings, method=method, data=data, **parts), small.NUM_CLASSES)
    state, batch = jax.eval_shape(small.initialise(definition), jax.random.key(0)), small.batch_of(definition)
    after, metrics = jax.eval_shape(small.train_step(definition), state, batch, jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for edge in definition.hierarchy.edges:
        assert metrics[f"train/{edge}"].shape == ()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_can_be_trained_by(name, monkeypatch):
    """Configs that differ in data and length only are one trace."""
    small.shorten_s3d(monkeypatch)
    definition = _small_definition(name)
    monkeypatch.setattr(describe, "count_flops", lambda _: (0.0, 0.0))  # lowered in tests/run/test_describe.py
    assert all(str(edge) in describe.describe(definition) for edge in definition.hierarchy.edges)
    settings, data = definition.settings, definition.settings.data
    sizes = tuple((name, getattr(data, name)) for name in ("num_frames", "height", "width"))
    _trace_step(settings.method, sizes, settings.model, settings.augmentation, settings.objective, settings.optimizer)


# hmdb, k400 and ssv2 differ from ucf in data and length only, default so from digits (tests/run/test_train.py).
@pytest.mark.long
@pytest.mark.parametrize("name", ["folder", "imagenet", "ucf"])
def test_a_config_takes_a_step_in_small(name):
    definition = _small_definition(name)
    state = small.new_state(definition)
    after, metrics = small.train_step(definition)(state, small.batch_of(definition), jax.random.key(0))
    assert all(np.isfinite(value) for value in metrics.values())
    assert small.largest_difference(state.params, after.params) > 0


def test_the_config_of_the_original_is_its_default():
    """But for the size, which its patches do not divide."""
    theirs = json.loads((FOLDER.parent / "tests" / "goldens" / "misc.json").read_text())["merged_configs"]["None"]
    fields = original_config.settings_overrides(theirs, {}, num_groups={"clips": 1})
    ours = _module("original").get_config()
    different = {name: _dotted(ours, name) for name, value in fields.items() if _dotted(ours, name) != value}
    assert different == {"data.height": 56, "data.width": 84}


def _dotted(config, name):
    return functools.reduce(lambda node, part: node[part], name.split("."), config)


def _changed(name, value):
    """The default as a plain dict, as it comes from JSON, with one field set to anything."""
    config = here = default.get_config().to_dict()
    *groups, field = name.split(".")
    for group in groups:
        here = here[group]
    here[field] = value
    return config


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("train.bacth_size", 4, "config.train.bacth_size is unknown; did you mean config.train.batch_size?"),
        ("nonsense", 4, "config.nonsense is unknown; known: seed, method, data"),
        ("train.batch_size", "4", "config.train.batch_size = '4' is a str, but must be int"),
        ("train.batch_size", 4.0, "config.train.batch_size = 4.0 is a float, but must be int"),
        ("train.batch_size", True, "config.train.batch_size = True is a bool, but must be int"),
        ("train.fsdp", 1, "config.train.fsdp = 1 is a int, but must be bool"),
        ("objective.distance", "mes", "config.objective.distance = 'mes', but must be one of .*did you mean 'mse'"),
        ("objective.variance_epsilon", 0.0, "config.objective.variance_epsilon = 0.0, but must be from 1e-12 to 1"),
        ("data.mean", 0.5, "config.data.mean = 0.5, but must be a tuple"),
        ("data.mean", (0.5, "x", 0.5), r"config.data.mean\[1\] = 'x' is a str, but must be float"),
        ("model.frame", 3, "config.model.frame = 3, but must be a group of fields"),
        ("optimizer.frozen", "clip", "config.optimizer.frozen = 'clip', but must be a tuple"),
    ],
)
def test_mistakes_are_named_in_one_line(name, value, words):
    with pytest.raises(SettingsError, match=words) as caught:
        read_settings(_changed(name, value))
    assert "\n" not in str(caught.value)


def _outside(low, high, like):
    """Return values that are not from `low` to `high`, of the type of `like`."""
    if isinstance(like, int):
        return [low - 1] + ([high + 1] if math.isfinite(high) else [])
    return [low - 1e-7, math.nan, math.inf] + ([high + 1e-6] if math.isfinite(high) else [])


def test_numbers_that_no_float_holds_are_refused():
    for field in ("train.batch_size", "data.height", "optimizer.learning_rate"):
        with pytest.raises(SettingsError, match=rf"config.{field} = (1000.*|inf), but must be .* and finite"):
            read_settings(_changed(field, 10**400))
    with pytest.raises(SettingsError, match="must be from 0 to 4294967295$"):
        read_settings(_changed("seed", 2**32))


def test_every_number_has_a_range():
    def is_number(name):
        value = functools.reduce(lambda group, part: group[part], name.split("."), default.get_config())
        return type(value) in (int, float)

    numbers = {name for name in reader.field_names(Settings) if is_number(name)}
    assert len(numbers) > 90 and numbers <= RANGES.keys()


@pytest.mark.parametrize("field", RANGES)
def test_numbers_outside_their_range_are_refused(field):
    low, high, _ = RANGES[field]
    default_value = default.get_config()
    for name in field.split("."):
        default_value = default_value[name]
    items = default_value if isinstance(default_value, tuple) else (default_value,)
    for number in _outside(low, high, items[0]):
        value = (*items[:-1], number) if isinstance(default_value, tuple) else number
        with pytest.raises(SettingsError, match=rf"^config.{field} = .*, but must be (at least|from) "):
            read_settings(_changed(field, value))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer.single": True, "optimizer.predictors": "own"}, "optimizer.predictors = 'own' exclude each other"),
        ({"data.storage_root": "x"}, "config.data.storage_root = 'x', but with config.data.storage = 'raw' "),
    ],
)
def test_what_would_have_no_effect_is_refused(fields, words):
    config = default.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(SettingsError, match=words):
        read_settings(config)


def test_storages_may_have_a_folder():
    config = _changed("data.storage_root", "x")
    config["data"]["storage"] = "frames"
    assert read_settings(config).data.storage_root == "x"


def test_every_field_is_explained_where_it_is_set():
    source = (FOLDER / "default.py").read_text()
    lines, starts = source.splitlines(), ("get_action_config", "shorten")
    functions = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name not in starts
    ]
    fields = [
        node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        and not isinstance(node.value, ast.Call)
    ]
    assert len(fields) > 90
    assert [lines[node.lineno - 1] for node in fields if "  # " not in lines[node.end_lineno - 1]] == []


@pytest.mark.parametrize("name", ["digits", "ssv2"])
def test_nothing_is_mirrored_where_a_label_says_left_or_right(name):
    for argument in ("", "smoke"):
        assert _module(name).get_config(argument).augmentation.flip_probability == 0.0


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"default"}))
def test_smoke_is_the_only_argument(name):
    assert _module(name).get_config("smoke").train.max_steps == 20
    with pytest.raises(
        ValueError, match=f"^configs/{name}.py:fast is unknown; use configs/{name}.py or configs/{name}.p"
    ):
        _module(name).get_config("fast")


def test_a_missing_field_is_named():
    config = default.get_config().to_dict()
    del config["train"]["fsdp"]
    with pytest.raises(SettingsError, match="config.train.fsdp is missing; start from configs/default.py"):
        read_settings(config)


def test_whole_numbers_serve_as_floats():
    assert read_settings(_changed("optimizer.learning_rate", 1)).optimizer.learning_rate == 1.0
