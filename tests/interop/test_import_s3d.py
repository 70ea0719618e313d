"""Import of S3D: every name of both layouts, refusals that say which, and a run that starts from the result."""

import json

import jax
import numpy as np
import pytest

from configs import s3d as config_s3d
from hvt_jax.interop import s3d, safetensors_io, start
from hvt_jax.run import leaves
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import read_settings
from tests import small

CLASSES = 5


def state_of(layout):
    """Return arrays by the names of a layout, each filled with a number of its own."""
    state = {}
    for tree in s3d._template():
        for ours, leaf in leaves.flatten(tree).items():
            shape = leaf.shape
            if len(shape) == 4:
                size, _, channels_in, channels = shape
                shape = (channels, channels_in, *((size, 1, 1) if "/time/" in ours else (1, size, size)))
            state[s3d.their_name(ours, layout)] = np.full(shape, len(state) / 1000, np.float32)
    head = {"weight": (CLASSES, 1024, 1, 1, 1), "bias": (CLASSES,)}
    prefix = {"kylemin": "fc.0", "torchvision": "classifier.1"}[layout]
    return state | {f"{prefix}.{field}": np.full(shape, 0.5, np.float32) for field, shape in head.items()}


def save(path, state):
    np.savez(path, **state)
    return str(path)


@pytest.mark.parametrize("layout", s3d.LAYOUTS)
def test_every_array_finds_its_place(layout):
    """What the places mean is held by tests/test_parity_s3d.py."""
    state = state_of(layout)
    assert len(state) == len(set(state)) == 5 * (2 + 1 + 2 + 9 * 8) + 2
    counters = {"x.num_batches_tracked": np.zeros(())}
    wrapped = {f"module.{name}": array for name, array in (state | counters).items()}
    params, stats, head = s3d.to_our_variables(wrapped, layout, "")
    for filled, shapes in zip((params, stats), s3d._template(), strict=True):
        assert leaves.describe(leaves.flatten(filled)) == leaves.describe(leaves.flatten(shapes))
    assert head["kernel"].shape == (1024, CLASSES)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda state: state.pop("features.5.branch1.0.0.weight"), r"1 missing \(features.5.branch1.0.0.weight\)$"),
        (lambda state: state.update(extra=np.zeros(1)), r"1 left over \(extra\)$"),
        (
            lambda state: state.update({"features.2.0.weight": np.zeros((64, 64, 1, 3, 3), np.float32)}),
            r"features.2.0.weight has shape \(64, 64, 1, 3, 3\), which does not become \(1, 1, 64, 64\), that of mix/k",
        ),
        (
            lambda state: state.update({"features.2.1.bias": np.full(64, np.nan, np.float32)}),
            "features.2.1.bias is not finite",
        ),
        (
            lambda state: state.update({"classifier.1.weight": np.zeros((CLASSES, 512, 1, 1, 1), np.float32)}),
            r"classifier.1 has shapes \(5, 512, 1, 1, 1\) and \(5,\), but must map 1024 features",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, line, tmp_path):
    state = state_of("torchvision")
    change(state)
    with pytest.raises(CheckpointError, match=line):
        s3d.import_weights(save(tmp_path / "w.npz", state), str(tmp_path / "out"), layout="torchvision", use="encoder")
    assert not (tmp_path / "out").exists()


def test_the_other_layout_is_recognised():
    line = r"^w has .* 387 missing \(base.0.bn_s.bias, .*, \.\.\.\) and 387 left over .* --layout=torchvision$"
    with pytest.raises(CheckpointError, match=line):
        s3d.to_our_variables(state_of("torchvision"), "kylemin", "w")


@pytest.mark.parametrize("use", s3d.USES)
def test_a_run_starts_from_it(use, tmp_path):
    """All arrays are copied into a frozen stem as into an encoder; a head of other classes stays fresh."""
    weights = save(tmp_path / "w.npz", state_of("torchvision"))
    done = s3d.import_weights(weights, str(tmp_path), layout="torchvision", use=use)
    written = json.loads((tmp_path / "config.json").read_text())
    assert done.classes == CLASSES and written.keys() == done.overrides.keys()
    fields = done.overrides | {"data.height": 32, "data.width": 32, "data.num_frames": 8}
    fields |= {"model.initial_weights": str(tmp_path / "model.safetensors")}
    if use == "stem":
        fields |= {"model.hierarchy": "frame-clip", "model.stem.trainable": False}
    definition = small.define(**fields)
    shapes = jax.eval_shape(small.initialise(definition), jax.random.key(0))
    state = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    lines = []
    started = start.start_from(definition.settings, state, lines.append)
    place = ("levels", "clip") if use == "encoder" else ("stem", "convolutions")
    saved = safetensors_io.load_variables(tmp_path / "model.safetensors")
    wanted = leaves.flatten([tree[place[0]][place[1]] for tree in saved])
    found = (started.params, started.stats)
    found = leaves.flatten([tree[place[0]][place[1]] for tree in found if place[1] in tree[place[0]]])
    by_end = {name.split("/", 1)[1]: array for name, array in found.items()}
    assert len(by_end) == len(wanted) == 385
    for name, array in wanted.items():
        np.testing.assert_array_equal(by_end[name.split("/", 1)[1]], array)
    text = "\n".join(lines)
    assert ("head/kernel" in text) == (use == "encoder") and "unused, as" not in text


def test_the_config_sees_what_torchvision_shows():
    """The fields of an import change nothing of it but where the run starts."""
    config = config_s3d.get_config()
    settings = read_settings(config)
    config.update_from_flattened_dict(s3d._overrides("torchvision", "encoder"))
    assert read_settings(config) == settings
    assert (round(settings.data.height * settings.data.resize_margin), settings.data.resize) == (256, "squeeze")
