"""Methods `jepa` and `mae`: what is masked, what is seen of it, and what is asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import dataflow, steps
from hvt_jax.engine import state as state_lib
from hvt_jax.model.masked import encode_visible, take_places
from hvt_jax.model.stem import cut_patches
from hvt_jax.objectives import masking
from hvt_jax.objectives.method import Inputs
from hvt_jax.settings import SettingsError
from tests import small
from tests.parity_case import quick_jit

KEY = jax.random.key(0)
NO_BATCH = {f"model.{level}.output_norm": "layer" for level in ("patch", "frame", "clip", "sequence")}


def test_every_place_is_seen_or_masked_once():
    by_both = jax.jit(
        lambda key: (
            masking.random_places(key, 50, 16, 4),
            masking.block_places(key, 50, (4, 4), blocks=2, area=0.25, seen=4),
        )
    )
    for seen, masked in by_both(KEY):
        both = np.concatenate([seen, masked], axis=1)
        assert seen.shape == (50, 4) and (np.sort(both, axis=1) == np.arange(16)).all()
        assert len(np.unique(np.asarray(seen), axis=0)) > 10


def test_blocks_are_masked_and_what_lies_outside_is_seen_first():
    of_some, of_all = jax.jit(
        lambda key: (
            masking.block_places(key, 40, (6, 6), blocks=1, area=0.15, seen=20),
            masking.block_places(key, 3, (2, 2), blocks=1, area=1.0, seen=3),
        )
    )(KEY)
    # One block of 2 to 3 rows and columns of 6x6: 27 to 32 places outside, of which 20 are seen.
    seen, _ = of_some
    hidden = np.ones((40, 36), bool)
    np.put_along_axis(hidden, np.asarray(seen), False, axis=1)
    solid = hidden.reshape(40, 6, 6)
    squares = solid[:, :-1, :-1] & solid[:, 1:, :-1] & solid[:, :-1, 1:] & solid[:, 1:, 1:]
    assert squares.any(axis=(1, 2)).all()
    # More is seen than lies outside of a block that covers all: some of the inside is, too.
    seen, masked = of_all
    assert seen.shape == (3, 3) and masked.shape == (3, 1)


def test_at_least_one_place_is_seen_and_not_all():
    assert [masking.count_seen(16, ratio) for ratio in (0.9, 0.75, 0.99, 0.01)] == [2, 4, 1, 15]


@pytest.fixture(scope="module")
def model():
    definition = small.define(**{"model.hierarchy": "patch-frame-clip-sequence", "method": "mae"}, **NO_BATCH)
    return definition, state_lib.merge(definition.graphdef, *small.drawn_variables(definition))


def test_what_is_masked_is_not_seen_by_any_level_above_the_patches(model):
    definition, pyramid = model
    video = np.random.default_rng(0).normal(size=(2, 4, 16, 24, 3)).astype(np.float32)
    hidden, other = video.copy(), video.copy()
    hidden[0, :, :8, 8:] = hidden[0, :, 8:, :8] = hidden[0, :, 8:, 16:] = 7.0  # 1 2, 3, 5
    other[0, 1, 0, 0] = 7.0

    @jax.jit
    def encode(video):
        outputs = encode_visible(pyramid, video, jnp.array([[0, 4], [2, 3]]), valid=None, key=None)
        return {name: output.tokens for name, output in outputs.items()}

    before, after, seen = map(jax.device_get, map(encode, (video, hidden, other)))
    for name in definition.hierarchy.levels:
        if name != "patch":
            np.testing.assert_array_equal(before[name], after[name])
            assert np.abs(before[name][0] - seen[name][0]).max() > 1e-4
            assert before[name].shape[1] == definition.hierarchy.num_tokens(name)


def test_seeing_every_place_is_encoding_the_video(model):
    definition, pyramid = model

    @jax.jit
    def run(video):
        every = jnp.broadcast_to(jnp.arange(6), (2, 6))
        found = encode_visible(pyramid, video, every, valid=None, key=None)
        return found, pyramid(video, train=True, isolated=False, last_state=-1)

    found, wanted = run(np.random.default_rng(0).normal(size=(2, 4, 16, 24, 3)).astype(np.float32))
    for name in definition.hierarchy.levels:
        np.testing.assert_allclose(found[name].tokens, wanted[name].tokens, atol=1e-5)


def test_mae_misses_the_normalised_pixels_of_valid_frames_and_videos(model):
    definition, pyramid = model
    video = np.random.default_rng(0).normal(size=(3, 4, 16, 24, 3)).astype(np.float32)
    draws = jax.jit(functools.partial(steps.draw_targets, definition))(KEY, video)
    frame_valid, valid = np.ones((3, 4), bool), np.array([True, False, True])
    frame_valid[0, 2:] = False

    @quick_jit
    def run(video):
        inputs = Inputs(video, valid, frame_valid, None, draws, {})
        losses = definition.method.losses(pyramid, inputs, definition.settings, key=None).losses
        outputs = encode_visible(pyramid, video, draws[0], valid=valid, key=None)
        return losses.total, pyramid.predictor(outputs[definition.hierarchy.levels[-1]].tokens, draws[1])

    found, predicted = run(video)
    pixels = np.asarray(jax.jit(lambda video, places: take_places(cut_patches(video, 8), places))(video, draws[1]))
    pixels = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True) + 1e-6)
    rows = np.square(np.asarray(predicted) - pixels).mean(-1)
    wanted = (rows[0, :2].sum() + rows[2].sum()) / (rows[0, :2].size + rows[2].size)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isfinite(run(np.zeros_like(video))[0])


def test_jepa_follows_a_teacher_which_has_no_predictor():
    definition = small.define(**{"method": "jepa", "model.hierarchy": "frame-clip"})
    params, _ = small.drawn_variables(definition)
    memory = jax.jit(functools.partial(steps.initial_memory, definition))(params)
    assert set(memory["params"]) == {"stem", "levels"}
    assert small.largest_difference(memory["params"], {name: params[name] for name in ("stem", "levels")}) == 0
    moved = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), params)
    follow = jax.jit(lambda memory, moved: definition.method.next_memory(definition.settings, memory, moved, None, 0.5))
    after = follow(memory, moved)
    for name, leaf in small.named_leaves(after["params"]).items():
        np.testing.assert_allclose(leaf, small.named_leaves(params)[name] + 0.001, rtol=1e-5, atol=1e-6)


def test_jepa_asks_for_the_latents_of_the_teacher_and_not_its_own():
    """At the first step both are the same; a teacher that sees something else changes the loss."""
    definition = small.define(**{"method": "jepa", "model.hierarchy": "frame-clip"})
    params, stats = small.drawn_variables(definition)
    video = np.random.default_rng(0).normal(size=(4, 4, 16, 24, 3)).astype(np.float32)
    draws = jax.jit(functools.partial(steps.draw_targets, definition))(KEY, video)
    assert len(draws) == 2

    def total(memory):
        loss = steps.build_loss(definition, {"video": video}, draws, {}, memory=memory)
        return loss(params, stats, None)[0]

    memory = jax.jit(functools.partial(steps.initial_memory, definition))(params)
    moved = jax.tree.map(lambda x: x, memory)
    moved["params"]["levels"]["frame"]["transformer"]["norm"]["scale"] *= -1.0
    quick = quick_jit(total)
    assert abs(float(quick(memory)) - float(quick(moved))) > 1e-3
    reached = dataflow.reached_outputs(lambda named: jax.grad(total)(named["memory"]), {"memory": memory})
    assert all(not names for names in jax.tree.leaves(reached, is_leaf=lambda x: isinstance(x, frozenset)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model.stem.kind": "conv", "model.stem.patch_size": 2}, "model.stem.kind = 'conv' see what lies under"),
        ({"data.width": 8, "data.height": 8}, "but a frame has 1"),
        ({"jepa.predictor.num_heads": 3}, "a width of 8 cannot be shared by 3 heads"),
        ({"jepa.mask_areas": (0.5,)}, "mask_blocks has 2 masks and mask_areas 1"),
    ],
)
def test_what_cannot_be_masked_is_refused_in_one_line(fields, said):
    with pytest.raises(SettingsError, match=said) as caught:
        small.define(**{"method": "jepa", "model.hierarchy": "frame-clip"}, **fields)
    assert "\n" not in str(caught.value)
