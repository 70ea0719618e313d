"""S3D alone and below a hierarchy: sizes, pooling, what is frozen, and what is refused."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.engine.groups import parameter_labels
from hvt_jax.evaluation import finetune
from hvt_jax.hierarchy import SINGLE
from hvt_jax.model import s3d
from hvt_jax.model.stem import merge_frames
from hvt_jax.nn.convolution import max_pool
from hvt_jax.run import describe
from hvt_jax.settings import SettingsError
from tests import small

SIZES = {"data.num_frames": 16, "data.height": 32, "data.width": 64}
ENCODER = SIZES | {
    "method": "supervised",
    "model.encoder": "s3d",
    "model.hierarchy": "clip",
    "model.clip.width": 1024,
    "model.clip.output_norm": "none",
    "model.clip.dropout": 0.5,
}
STEM = SIZES | {"model.stem.kind": "s3d", "model.stem.patch_size": 1, "model.hierarchy": "patch-frame-clip"}


def _shapes(definition):
    return jax.eval_shape(lambda: steps.initial_variables(definition, 0))


def test_pooling_counts_the_ends_of_time_half():
    map_BTYXC = jnp.array([1.0, 5.0, 9.0]).reshape(1, 3, 1, 1, 1) * jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1)
    np.testing.assert_allclose(s3d.pool(map_BTYXC), [[2 * (0.5 * 1 + 5 + 0.5 * 9) / 2]])
    np.testing.assert_allclose(s3d.pool(map_BTYXC[:, :1]), [[2.0]])


@pytest.mark.parametrize(("size", "stride", "expected"), [(3, 2, [2, 4, 5]), (3, 1, [2, 4, 4, 5, 5]), (2, 2, [2, 4])])
def test_pooling_windows(size, stride, expected):
    row = jnp.array([1.0, 2.0, 4.0, 3.0, 5.0])
    np.testing.assert_array_equal(max_pool(row.reshape(1, 5, 1), (1,), size=size, stride=stride)[0, :, 0], expected)


def test_alone_it_is_one_level_with_one_token():
    definition = small.define(**ENCODER)
    hierarchy = definition.hierarchy
    assert (hierarchy.levels, hierarchy.num_tokens("clip"), hierarchy.num_frames) == (SINGLE, 1, 16)
    params, stats = _shapes(definition)
    assert params["head"]["kernel"].shape == (1024, small.NUM_CLASSES)
    assert set(jax.tree.leaves(parameter_labels(params, definition.groups))) == {"clip", "head"}
    # torchvision says 8,320,048 with a head of 400 classes.
    assert sum(leaf.size for leaf in jax.tree.leaves(params["levels"])) == 8_320_048 - 1025 * 400
    encoded = jax.eval_shape(steps.build_encode(definition), params, stats, small.batch_of(definition)["video"])
    assert encoded["clip"].shape == (small.BATCH, 1024) and encoded["head"].shape == (small.BATCH,)
    tokens = jax.eval_shape(steps.build_tokens(definition), params, stats, small.batch_of(definition)["video"])
    assert tokens["clip"].shape == (small.BATCH, 1, 1024)


def test_it_is_described(monkeypatch):
    monkeypatch.setattr(describe, "count_flops", lambda _: (0.0, 0.0))
    text = describe.describe(small.define(**ENCODER))
    assert "encoder   s3d" in text and "7,910,048" in text
    text = describe.describe(small.define(**STEM, **{"model.stem.trainable": False}))
    assert "stem      s3d, patches of 1, 2 a frame, 1 frame of 8, width 6, its convolutions kept as they are" in text


def test_only_the_token_that_is_trained_on_drops_out():
    """Of a network whose features are ones: raw ones stay."""
    settings = small.small_settings(**ENCODER)
    hierarchy = small.define(**ENCODER).hierarchy

    network = {"clip": lambda video, **_: jnp.ones((len(video), 2, 1, 2, 1024))}
    dropout = nnx.Dropout(settings.model.clip.dropout)
    ones = types.SimpleNamespace(hierarchy=hierarchy, dtype=jnp.dtype("float32"), levels=network, dropout=dropout)
    run = functools.partial(s3d.S3DEncoder.__call__, ones, jnp.zeros((2, 16, 32, 64, 3)))
    found = run(train=True, key=jax.random.key(0))["clip"]
    assert set(np.unique(found.tokens)) == {0.0, 2.0} and set(np.unique(found.raw)) == {1.0}
    found = run(train=False)["clip"]
    assert set(np.unique(found.tokens)) == {1.0} and found.tokens.shape == (2, 1, 1024)


def test_a_layer_of_it_is_tuned_slower_the_lower_it_lies():
    definition = small.define(**ENCODER)
    params, _ = _shapes(definition)
    params = {"model": params, "head": {"kernel": np.zeros((1024, 2)), "bias": np.zeros(2)}}
    scales = small.named_leaves(finetune.layer_scales(params, definition, "clip", 0.5))
    assert scales["head/bias"] == 1 and scales["model/levels/clip/mixed_5c/branch0/kernel"] == 0.5
    assert scales["model/levels/clip/entry/time/kernel"] == 0.5 ** len(s3d.LAYERS)
    assert scales["model/head/kernel"] == 0


def test_below_a_hierarchy_it_makes_one_frame_of_eight(monkeypatch):
    small.shorten_s3d(monkeypatch)
    definition = steps.define(small.small_settings(**STEM, **{"objective.patch_targets": "change"}))
    hierarchy = definition.hierarchy
    assert [hierarchy.num_tokens(level) for level in hierarchy.levels] == [4, 2, 1] and hierarchy.frame_step == 8
    params, stats = _shapes(definition)
    assert "entry" in params["stem"]["convolutions"]

    def loss(params, stats, video, frame_valid):
        draws = steps.draw_targets(definition, jax.random.key(0), video, frame_valid)
        weights = steps.edge_weights(definition, jnp.int32(0), 8)
        batch = {"video": video, "frame_valid": frame_valid, "valid": jnp.ones(2, bool)}
        return steps.build_loss(definition, batch, draws, weights)(params, stats, jax.random.key(1))[1]

    shapes = (2, 16, 32, 64, 3), (2, 16)
    found = jax.eval_shape(loss, params, stats, *map(jax.ShapeDtypeStruct, shapes, (jnp.float32, bool)))
    assert found.losses.edges["patch"]["patch->frame/up"].shape == ()
    assert {level: found.levels[level].tokens.shape for level in hierarchy.levels} == {
        "patch": (2, 4, 6),
        "frame": (2, 2, 8),
        "clip": (2, 1, 10),
    }


def test_a_frame_of_eight_is_padding_if_all_are():
    frame_valid = jnp.arange(16)[None] < jnp.array([[16], [9], [8], [0]])
    np.testing.assert_array_equal(merge_frames(frame_valid, 8), [[1, 1], [1, 1], [1, 0], [0, 0]])
    assert merge_frames(None, 8) is None


@pytest.mark.parametrize("kind", ["conv", "s3d"])
def test_a_frozen_stem_is_no_parameter(kind, monkeypatch):
    small.shorten_s3d(monkeypatch)
    definition = steps.define(small.small_settings(**STEM | {"model.stem.kind": kind, "model.stem.trainable": False}))
    free = steps.define(small.small_settings(**STEM | {"model.stem.kind": kind}))
    (params, stats), (all_params, some_stats) = _shapes(definition), _shapes(free)
    assert set(params["stem"]) == {"embedding", "output_norm"}
    trained, kept = (_names(tree["stem"]) for tree in (all_params, stats))
    assert trained | _names(some_stats["stem"]) == _names(params["stem"]) | kept


def _names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_what_is_frozen_stays_in_training():
    """Weights and statistics; and as these serve in training, too, a video gives the same map alone and with others."""
    fields = {"model.stem.kind": "conv", "model.stem.trainable": False, "model.stem.patch_size": 2}
    definition = small.define(**fields)
    params, stats = steps.initial_variables(definition, 0)

    @jax.jit
    def run(params, stats, video):
        model = state_lib.merge(definition.graphdef, params, stats)
        alone, beside = (model.stem(each, train=True)[1][:1] for each in (video[:1], video))
        return alone, beside, state_lib.statistics(model)

    video = np.random.default_rng(1).normal(size=(2, 4, 16, 24, 3)).astype(np.float32)
    alone, beside, now = run(params, stats, video)
    np.testing.assert_allclose(alone, beside, atol=1e-6)
    before, after = (small.named_leaves(tree["stem"]) for tree in (stats, now))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert len(before) == 25 + 2 and moved == {"output_norm/mean", "output_norm/var"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (ENCODER | {"method": "local"}, "method = 'local' trains a hierarchy, but config.model.encoder = 's3d' "),
        (
            ENCODER | {"model.hierarchy": "frame-clip", "model.clip.width": 10},
            "set --config.model.hierarchy=clip --config.model.clip.width=1024$",
        ),
        (ENCODER | {"data.num_frames": 12}, "data.num_frames = 12 is no multiple of 8 .* use 8 or 16"),
        (ENCODER | {"data.width": 48}, "data.width = 48 is no multiple of 32 .* use 32 or 64"),
        ({"model.hierarchy": "clip"}, "model.hierarchy = clip is what model.encoder = 's3d' has"),
        (STEM | {"data.num_frames": 20}, "data.num_frames = 20 is no multiple of 8 .the s3d stem.* use 16 or 24"),
        (STEM | {"data.height": 48}, "data.height = 48 is no multiple of 32 .model.stem.patch_size 1, s3d stem"),
        (
            STEM | {"model.hierarchy": "frame-clip-sequence", "model.num_clips": 4},
            "data.num_frames = 16, of which the s3d stem makes 2, cannot be cut into model.num_clips = 4",
        ),
        ({"model.stem.trainable": False}, "model.stem.trainable = False keeps convolutions .* linear stem has none"),
        (
            {"data.resize": "squeeze", "data.test_views_spatial": 3},
            "data.test_views_spatial = 3, but squeezed frames have no longer side",
        ),
    ],
)
def test_what_cannot_be_is_refused(fields, words):
    with pytest.raises(SettingsError, match=words):
        small.define(**fields)
