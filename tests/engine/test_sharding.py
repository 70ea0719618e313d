"""One device and four, data parallel and FSDP: the same numbers from the same compiled step."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from hvt_jax.engine import sharding
from hvt_jax.engine.compilation import compile_functions
from hvt_jax.settings import SettingsError
from tests import small

STEPS = 3
# Global statistics everywhere: BatchNorm in levels and predictors, candidates, VICReg as regulariser. SGD,
# because adaptive optimizers blow up the rounding noise of gradients that are zero.
FIELDS = {
    "model.hierarchy": "patch-frame-clip",
    "model.frame.predictor_norm": "batch",
    "model.frame.dropout": 0.1,
    "objective.distance": "contrastive",  # with candidates from the batch, which are those of all devices
    "objective.patch_targets": "change",
    "objective.batch_candidates_weight": 0.5,
    "objective.batch_candidates": 32,
    "objective.regularizer": "vicreg",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e-2,
    "augmentation.resized_crop_scale": (0.5, 0.9),
    "augmentation.flip_probability": 0.5,
    "train.batch_size": 8,
    "train.fsdp_min_size": 64,
    "logging.interval_steps": 2,
}


CONV_STEM = {
    "model.hierarchy": "patch-frame-clip",
    "model.clip.causal": True,
    "objective.distance": "vicreg",
    "model.stem.kind": "conv",
    "model.stem.patch_size": 2,
}


def _batches(definition):
    batches = [small.batch_of(definition, seed, 8) for seed in range(STEPS)]
    batches[1]["valid"][[2, 5]] = False  # unevenly over the devices
    return batches


def _run(monkeypatch, devices: int, *, encodes: bool = True, **fields):
    """Return metrics of every step, state, features (with `encodes`) and the compiled functions."""
    definition = small.define(**(FIELDS | fields))
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    monkeypatch.setattr(sharding, "make_mesh", lambda settings: mesh)
    compiled = compile_functions(definition, small.optimizer(definition), num_steps=8)
    # Not by `compiled.initialise`, whose sharding has a test of its own: it takes as long to compile as the step.
    placed = jax.tree.map(lambda leaf: leaf.sharding, compiled.abstract_state)
    state, key, metrics = jax.device_put(_own(small.new_state(definition)), placed), compiled.key(), []
    for batch in _batches(definition):
        state, scalars = compiled.train_step(state, compiled.to_devices(batch), key)
        metrics.append(jax.device_get(scalars))
    if not encodes:
        return metrics, state, {}, compiled
    batch = small.batch_of(definition, 9, 8)
    batch["index"] = np.arange(8, dtype=np.int32)
    features = jax.device_get(compiled.encode(state.params, state.stats, compiled.to_devices(batch)))
    return metrics, state, features, compiled


def _own(state):
    """Copies, no two of one buffer: the step takes them over."""
    return jax.tree.map(np.array, state)


@pytest.fixture(scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        return _run(patch, 1)


# With parameters that are cut the teacher's test below stands for it.
_MODES = [pytest.param(False, id="data_parallel"), pytest.param(True, id="fsdp", marks=pytest.mark.long)]


@pytest.mark.parametrize("fsdp", _MODES)
def test_four_devices_do_what_one_does(monkeypatch, one_device, fsdp):
    _is_the_same(one_device, _run(monkeypatch, 4, **{"train.fsdp": fsdp}))


@pytest.mark.long
def test_four_devices_do_what_one_does_with_patches_after_the_conv_stem_too(monkeypatch):
    _is_the_same(_run(monkeypatch, 1, **CONV_STEM), _run(monkeypatch, 4, **CONV_STEM, **{"train.fsdp": True}))


@pytest.mark.long
def test_four_devices_train_on_labels_as_one_does(monkeypatch):
    """With parameters that are cut, the head's among them."""
    fields = {"method": "supervised", "model.hierarchy": "patch-frame", "train.fsdp_min_size": 16}
    one, four = (_run(monkeypatch, devices, **fields, **{"train.fsdp": devices > 1}) for devices in (1, 4))
    assert not four[1].params["head"]["kernel"].sharding.is_fully_replicated
    _is_the_same(one, four)


def test_four_devices_have_the_teacher_of_one(monkeypatch):
    """Its parameters and the mean of its answers over the whole batch, of views that are cut with their videos."""
    fields = {"method": "svt", "model.hierarchy": "frame-clip", "train.fsdp_min_size": 16}
    one, four = (_run(monkeypatch, n, encodes=False, **fields, **{"train.fsdp": n > 1}) for n in (1, 4))
    kernel = four[1].memory["params"]["stem"]["embedding"]["kernel"]
    assert not kernel.sharding.is_fully_replicated
    _is_the_same(one, four)
    assert small.largest_difference(one[1].memory, four[1].memory) < 1e-6


def _is_the_same(of_one, of_four):
    (expected, state_of_one, features_of_one, _), (metrics, state, features, compiled) = of_one, of_four
    assert compiled.train_step._cache_size() == 1
    for one, four in zip(expected, metrics, strict=True):
        assert one.keys() == four.keys()
        for name in one:
            np.testing.assert_allclose(four[name], one[name], rtol=2e-5, atol=2e-6, err_msg=name)
        for name in (name for name in one if "->" in name and name.startswith("train/")):
            np.testing.assert_allclose(four[name], one[name], rtol=3e-6, err_msg=name)
    assert small.largest_difference(state_of_one.params, state.params) < 1e-6
    assert small.largest_difference(state_of_one.stats, state.stats) < 1e-5
    assert features.keys() == features_of_one.keys()
    if features:
        assert features.keys() >= {"frame", "index", "valid"}
        assert small.largest_difference(features_of_one, features) < 1e-5


def test_fsdp_cuts_large_arrays_and_their_moments_alike(monkeypatch):
    definition = small.define(**FIELDS | {"optimizer.name": "adamw", "train.fsdp": True})
    mesh = sharding.make_mesh(definition.settings.train)
    compiled = compile_functions(definition, small.optimizer(definition), num_steps=8)
    assert compiled.mesh.size == mesh.size == 4
    leaves = jax.tree_util.tree_flatten_with_path(compiled.abstract_state)[0]
    cut = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    kernel = cut["params/stem/embedding/kernel"]
    assert kernel.shape == (192, 6) and kernel.sharding.spec == PartitionSpec("data", None)
    moments = [leaf for name, leaf in cut.items() if name.startswith("opt_state") and "stem/embedding/kernel" in name]
    assert len(moments) == 2 and all(leaf.sharding == kernel.sharding for leaf in moments)
    for name, leaf in cut.items():
        divisible = leaf.size >= 64 and any(size % 4 == 0 for size in leaf.shape)
        assert leaf.sharding.is_fully_replicated != divisible, name
    born = compiled.initialise().params
    assert small.largest_difference(born, small.new_state(definition, definition.settings.seed).params) < 1e-6
    held = {shard.data.shape for shard in born["stem"]["embedding"]["kernel"].addressable_shards}
    assert held == {(48, 6)}


def test_the_largest_axis_that_divides_is_cut():
    settings = small.small_settings(**{"train.fsdp": True, "train.fsdp_min_size": 8, "train.batch_size": 4}).train
    mesh = sharding.make_mesh(settings)

    def spec(*shape):
        return sharding.state_sharding(jax.ShapeDtypeStruct(shape, "float32"), mesh, settings).spec

    assert spec(8, 16, 3) == PartitionSpec(None, "data", None)
    assert spec(8, 18, 3) == PartitionSpec("data", None, None)
    assert spec(7, 9) == spec(4) == spec() == PartitionSpec()


def test_a_batch_that_devices_cannot_share_is_refused_with_a_better_one():
    with pytest.raises(SettingsError, match="train.batch_size = 6 cannot be shared by 4 devices; use .* e.g. 4"):
        sharding.make_mesh(small.small_settings(**{"train.batch_size": 6}).train)
    with pytest.raises(SettingsError, match="e.g. 4"):
        sharding.make_mesh(small.small_settings(**{"train.batch_size": 2}).train)


def test_a_batch_is_cut_along_its_videos():
    mesh = sharding.make_mesh(small.small_settings(**{"train.batch_size": 8}).train)
    video = np.arange(8 * 2).reshape(8, 2)
    placed = sharding.to_devices({"video": video}, mesh)["video"]
    np.testing.assert_array_equal(placed, video)
    assert [np.asarray(shard.data)[0, 0] for shard in placed.addressable_shards] == [0, 4, 8, 12]
