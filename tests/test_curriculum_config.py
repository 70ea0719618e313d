"""The config of a curriculum: stages over a base, and each mistake in one line that names the stage."""

import importlib.util
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import curriculum_digits, digits
from hvt_jax.engine import steps
from hvt_jax.settings import SettingsError, read_settings
from hvt_jax.settings.curriculum import read_curriculum

FOLDER = pathlib.Path(__file__).parent.parent / "configs"


def _changed(**fields) -> ConfigDict:
    """Return the config with fields by their names, with __ for the dots, unlocked; None takes one away."""
    config = curriculum_digits.get_config().to_dict()
    for name, value in fields.items():
        *groups, field = name.split("__")
        node = config
        for group in groups:
            node = node[group]
        if value is None:
            del node[field]
        else:
            node[field] = value
    return ConfigDict(config)


def _refusal(**fields) -> str:
    with pytest.raises(SettingsError) as caught:
        read_curriculum(_changed(**fields))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("path", sorted(FOLDER.glob("curriculum_*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("argument", ["", "smoke"])
def test_every_curriculum_is_a_locked_document_whose_stages_can_be_built(path, argument):
    spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.__doc__.strip().splitlines()) > 2
    config = module.get_config(argument)
    assert config.is_locked and config.stages.images.is_locked and config.base.is_locked
    curriculum = read_curriculum(config)
    assert [stage.folder for stage in curriculum.stages] == ["1_images", "2_short", "3_long"]
    for stage in curriculum.stages:
        assert stage.config.is_locked and len(steps.define(stage.settings).hierarchy.edges) >= 2
        assert stage.settings.train.max_steps == (20 if argument else 0)
    with pytest.raises(ValueError, match="is unknown; use configs"):
        module.get_config("fast")


def test_a_stage_is_the_base_and_what_differs():
    config = _changed(base__train__batch_size=16, stages__short__optimizer={"learning_rate": 3e-4})
    images, short, long = (stage.settings for stage in read_curriculum(config).stages)
    assert {stage.train.batch_size for stage in (images, short, long)} == {16}
    assert (images.data.num_frames, short.data.num_frames, long.data.num_frames) == (1, 4, 8)
    assert short.optimizer.learning_rate == 3e-4 and long.optimizer.learning_rate == 2e-3
    assert config.base.optimizer.learning_rate == 2e-3  # the base stays what it is
    (alone,) = read_curriculum(_changed(order=("long",))).stages
    assert alone.folder == "1_long" and alone.settings.data == read_settings(digits.get_config()).data


def test_weights_of_the_base_are_for_the_first_stage():
    images, short, _ = read_curriculum(_changed(base__model__initial_weights="w.safetensors")).stages
    assert images.settings.model.initial_weights == "w.safetensors" and short.settings.model.initial_weights == ""
    line = _refusal(stages__short__model__initial_weights="w.safetensors")
    assert line.startswith(
        "stage short: config.model.initial_weights = 'w.safetensors', but it begins with the weights"
    )


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"stages__short__data__num_frmes": 3},
            "stage short: config.data.num_frmes is unknown; did you mean config.dat",
        ),
        ({"stages__short__nonsense": {"x": 3}}, "stage short: config.nonsense is unknown; known: seed, "),
        ({"stages__short__data": 3}, "stage short: config.data = 3, but must be a group of fields"),
        ({"stages__images__data__num_frames": "1"}, "stage images: config.data.num_frames = '1' is a str, but must be"),
        (
            {"stages__long__data": {"num_frames": 7}},
            "stage long: data.num_frames = 7 cannot be cut into model.num_clips",
        ),
        ({"stages__long__train__num_epochs": -1.0}, "stage long: config.train.num_epochs = -1.0, but must be at least"),
        ({"stages__long": 3}, "stage long: config.stages.long = 3, but must be a group of fields"),
        ({"order": ("images", "shrt")}, "config.order names 'shrt', but config.stages has images, long, short"),
        ({"order": ("images", "images")}, "config.order names 'images' twice"),
        ({"order": ()}, "config.order = () runs nothing; there are images, long, short"),
        ({"order": "images"}, "config.order = 'images', but must be a tuple"),
        ({"order": ("a/b",), "stages__a/b": {"data": {}}}, "stage 'a/b': a folder is called so"),
        (
            {"grow": "intrpolate"},
            "config.grow = 'intrpolate', but must be one of rows, interpolate; did you mean 'interp",
        ),
        ({"hand_over": "first"}, "config.hand_over = 'first', but must be one of best, last"),
        ({"nonsense": 3}, "config.nonsense is unknown; a curriculum has base, stages, order"),
        ({"base": None}, "config.base is missing, so this is no curriculum, which has base, stages"),
        ({"base": 3}, "config.base = 3, but must be a group of fields"),
    ],
)
def test_mistakes_are_named_in_one_line(fields, line):
    assert _refusal(**fields).startswith(line)


def test_the_config_of_one_run_is_no_curriculum():
    with pytest.raises(SettingsError, match="config.base is missing, so this is no curriculum"):
        read_curriculum(digits.get_config())
