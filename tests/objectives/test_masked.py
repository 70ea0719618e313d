"""Methods `jepa` and `mae`: what is masked, what is seen of it, and what is asked."""

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
    for seen, masked in (
        masking.random_places(KEY, 50, 16, 4),
        masking.block_places(KEY, 50, (4, 4), blocks=2, area=0.25, seen=4),
    ):
        both = np.concatenate([seen, masked], axis=1)
        assert seen.shape == (50, 4) and (np.sort(both, axis=1) == np.arange(16)).all()
        assert len(np.unique(np.asarray(seen), axis=0)) > 10


def test_blocks_are_masked_and_what_lies_outside_is_seen_first():
    # One block of 2 to 3 rows and columns of 6x6: 27 to 32 places outside, of which 20 are seen.
    seen, _ = masking.block_places(KEY, 40, (6, 6), blocks=1, area=0.15, seen=20)
    hidden = np.ones((40, 36), bool)
    np.put_along_axis(hidden, np.asarray(seen), False, axis=1)
    solid = hidden.reshape(40, 6, 6)
    squares = solid[:, :-1, :-1] & solid[:, 1:, :-1] & solid[:, :-1, 1:] & solid[:, 1:, 1:]
    assert squares.any(axis=(1, 2)).all()
    # More is seen than lies outside of a block that covers all: some of the inside is, too.
    seen, masked = masking.block_places(KEY, 3, (2, 2), blocks=1, area=1.0, seen=3)
    assert seen.shape == (3, 3) and masked.shape == (3, 1)


def test_at_least_one_place_is_seen_and_not_all():
    assert [masking.count_seen(16, ratio) for ratio in (0.9, 0.75, 0.99, 0.01)] == [2, 4, 1, 15]


@pytest.fixture(scope="module")
def model():
    definition = small.define(**{"model.hierarchy": "patch-frame-clip-sequence", "method": "mae"}, **NO_BATCH)
    return definition, state_lib.merge(definition.graphdef, *steps.initial_variables(definition, 0))


def test_what_is_masked_is_not_seen_by_any_level_above_the_patches(model):
    definition, pyramid = model
    video = jax.random.normal(KEY, (2, 4, 16, 24, 3))
    places = jnp.array([[0, 4], [2, 3]])
    hidden = video.at[0, :, :8, 8:].set(7.0).at[0, :, 8:, :8].set(7.0).at[0, :, 8:, 16:].set(7.0)  # 1 2, 3, 5
    before, after = (encode_visible(pyramid, video, places, valid=None, key=None) for video in (video, hidden))
    seen = encode_visible(pyramid, video.at[0, 1, 0, 0].set(7.0), places, valid=None, key=None)
    for name in definition.hierarchy.levels:
        if name != "patch":
            np.testing.assert_array_equal(before[name].tokens, after[name].tokens)
            assert np.abs(before[name].tokens[0] - seen[name].tokens[0]).max() > 1e-4
            assert before[name].tokens.shape[1] == definition.hierarchy.num_tokens(name)


def test_seeing_every_place_is_encoding_the_video(model):
    definition, pyramid = model
    video = jax.random.normal(KEY, (2, 4, 16, 24, 3))
    every = jnp.broadcast_to(jnp.arange(6), (2, 6))
    found = encode_visible(pyramid, video, every, valid=None, key=None)
    wanted = pyramid(video, train=True, isolated=False, last_state=-1)
    for name in definition.hierarchy.levels:
        np.testing.assert_allclose(found[name].tokens, wanted[name].tokens, atol=1e-5)


def test_mae_misses_the_normalised_pixels_of_valid_frames_and_videos(model):
    definition, pyramid = model
    video = jax.random.normal(KEY, (3, 4, 16, 24, 3))
    draws = steps.draw_targets(definition, KEY, video)
    frame_valid = jnp.ones((3, 4), bool).at[0, 2:].set(False)
    valid = jnp.array([True, False, True])

    @quick_jit
    def run(video):
        inputs = Inputs(video, valid, frame_valid, None, draws, {})
        losses = definition.method.losses(pyramid, inputs, definition.settings, key=None).losses
        outputs = encode_visible(pyramid, video, draws[0], valid=valid, key=None)
        return losses.total, pyramid.predictor(outputs[definition.hierarchy.levels[-1]].tokens, draws[1])

    found, predicted = run(video)
    pixels = np.asarray(take_places(cut_patches(video, 8), draws[1]))
    pixels = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True) + 1e-6)
    rows = np.square(np.asarray(predicted) - pixels).mean(-1)
    wanted = (rows[0, :2].sum() + rows[2].sum()) / (rows[0, :2].size + rows[2].size)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isfinite(run(jnp.zeros_like(video))[0])


def test_jepa_follows_a_teacher_which_has_no_predictor():
    definition = small.define(**{"method": "jepa", "model.hierarchy": "frame-clip"})
    params, _ = steps.initial_variables(definition, 0)
    memory = steps.initial_memory(definition, params)
    assert set(memory["params"]) == {"stem", "levels"}
    assert small.largest_difference(memory["params"], {name: params[name] for name in ("stem", "levels")}) == 0
    moved = jax.tree.map(lambda x: x + 1.0, params)
    after = definition.method.next_memory(definition.settings, memory, moved, None, 0.5)
    for name, leaf in small.named_leaves(after["params"]).items():
        np.testing.assert_allclose(leaf, small.named_leaves(params)[name] + 0.001, rtol=1e-5, atol=1e-6)


def test_jepa_asks_for_the_latents_of_the_teacher_and_not_its_own():
    """At the first step both are the same; a teacher that sees something else changes the loss."""
    definition = small.define(**{"method": "jepa", "model.hierarchy": "frame-clip"})
    params, stats = steps.initial_variables(definition, 0)
    video = jax.random.normal(KEY, (4, 4, 16, 24, 3))
    draws = steps.draw_targets(definition, KEY, video)
    assert len(draws) == 2

    def total(memory):
        loss = steps.build_loss(definition, {"video": video}, draws, {}, memory=memory)
        return loss(params, stats, None)[0]

    memory = steps.initial_memory(definition, params)
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
