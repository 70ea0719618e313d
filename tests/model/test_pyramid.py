"""Order of levels and of time, who sees whom, and what a predictor can tell apart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.hierarchy import HIERARCHIES, LEVELS, Edge, Hierarchy
from hvt_jax.model.level import Level
from hvt_jax.model.predictor import Predictor, code_split
from hvt_jax.model.stem import Stem, cut_patches
from hvt_jax.objectives import local
from hvt_jax.settings import SettingsError, read_settings
from hvt_jax.settings.geometry import model_hierarchy
from tests import small

FULL = "patch-frame-clip-sequence"
EQUAL_WIDTHS = {f"model.{level}.width": 8 for level in LEVELS}
NO_NORM = {f"model.{level}.output_norm": "none" for level in LEVELS}


def _video(definition, seed=0, batch=2):
    data = definition.settings.data
    shape = (batch, data.num_frames, data.height, data.width, 3)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_levels_keep_their_order_through_jit():
    # 2 patches, 2 frames, 2 clips and equal widths: no shape would tell that levels were run in alphabetical order.
    definition = small.define(**{"model.hierarchy": FULL, "data.width": 8}, **EQUAL_WIDTHS, **NO_NORM)
    variables, video = small.drawn_variables(definition), _video(definition)
    assert sorted(LEVELS) != list(LEVELS)

    @jax.jit
    def encode(params, stats, video):
        outputs = state_lib.merge(definition.graphdef, params, stats)(video, train=False)
        return {level: output.tokens for level, output in outputs.items()}

    @jax.jit
    def encode_in_order(params, stats, video):
        pyramid = state_lib.merge(definition.graphdef, params, stats)
        tokens = [pyramid.stem(video, train=False)[0]]
        for level in LEVELS[1:]:
            tokens.append(pyramid.levels[level](tokens[-1], train=False).tokens)
        return tokens

    found = encode(*variables, video)
    assert {level: tokens.shape for level, tokens in found.items()} == {
        "patch": (2, 8, 8),
        "frame": (2, 4, 8),
        "clip": (2, 2, 8),
        "sequence": (2, 1, 8),
    }
    for level, tokens in zip(LEVELS, encode_in_order(*variables, video), strict=True):
        np.testing.assert_allclose(found[level], tokens, rtol=1e-5, atol=1e-6)


def test_tokens_are_in_time_order_and_see_their_own_frames_only():
    definition = small.define(**{"model.hierarchy": FULL}, **EQUAL_WIDTHS, **NO_NORM)
    pyramid = state_lib.merge(definition.graphdef, *small.drawn_variables(definition))
    video = _video(definition, batch=1)

    def sums(video):
        outputs = pyramid(video, train=False, isolated=False)
        # Squares, because the plain sum of a layer-normed token does not depend on anything.
        return {level: jnp.square(output.tokens[0]) @ jnp.arange(8.0) for level, output in outputs.items()}

    # [N, T, Y, X]: which pixels a token depends on.
    seen = {level: np.abs(jac).sum((1, -1)) for level, jac in jax.jit(jax.jacrev(sums))(video).items()}
    patches, height, width = 6, 8, 8
    for token, pixels in enumerate(seen["patch"]):
        time, (row, column) = token // patches, divmod(token % patches, 3)
        own = np.zeros(pixels.shape, bool)
        own[time, row * height : (row + 1) * height, column * width : (column + 1) * width] = True
        assert (pixels[own] > 0).all() and (pixels[~own] == 0).all()
    frames = {level: array.sum((-1, -2)) > 0 for level, array in seen.items() if level != "patch"}
    np.testing.assert_array_equal(frames["frame"], np.eye(4, dtype=bool))
    np.testing.assert_array_equal(frames["clip"], np.kron(np.eye(2, dtype=bool), np.ones((1, 2), bool)))
    np.testing.assert_array_equal(frames["sequence"], np.ones((1, 4), bool))


def test_positions_of_a_level_do_not_enter_the_tokens_below_that_are_targets():
    """The original added them in place, into storage that it shared with the target."""
    definition = small.define(**{"model.hierarchy": "patch-frame-clip"}, **EQUAL_WIDTHS, **NO_NORM)
    draws = jax.jit(functools.partial(steps.draw_targets, definition))(jax.random.key(0), _video(definition))
    params, stats = small.drawn_variables(definition)
    for level in ("frame", "clip"):
        table = params["levels"][level]["positions"]["table"]
        params["levels"][level]["positions"]["table"] = table + 100.0

    @jax.jit
    def run(params, stats, video):
        pyramid = state_lib.merge(definition.graphdef, params, stats)
        outputs = pyramid(video, train=False)
        targets = {
            name: found.target for name, found in local.predict(pyramid, outputs, draws.edges, train=False).items()
        }
        patches = pyramid.stem(video, train=False)[0]
        return outputs, targets, {"patch": patches, "frame": pyramid.levels["frame"](patches, train=False).tokens}

    outputs, targets, before = run(params, stats, _video(definition))
    for level, source in (("patch", "frame"), ("frame", "clip")):
        np.testing.assert_allclose(outputs[level].tokens, before[level], rtol=1e-5, atol=1e-5)
        asked = draws.edges[f"{source}->{level}/down"].target
        expected = np.take_along_axis(np.asarray(before[level]), np.asarray(asked)[..., None], axis=1)
        np.testing.assert_allclose(targets[f"{source}->{level}/down"], expected, rtol=1e-5, atol=1e-5)


def _level(causal, *, members=3, width=4):
    config = small.small_config(**{"model.frame.width": width, "model.frame.output_norm": "layer"}, causal=causal)
    settings = read_settings(config).model.frame
    return Level(settings, width, members, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0))


def test_causal_states_see_earlier_members_of_their_group_only():
    level = _level(causal=True)
    members = jax.random.normal(jax.random.key(0), (1, 6, 4))
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.square(level(x, train=False).states[0]) @ jnp.arange(4.0)))(members)
    sees = np.abs(np.asarray(jacobian)).sum((1, -1))
    expected = np.kron(np.eye(2), np.tri(3)) > 0
    assert (sees[~expected] == 0).all()
    assert (sees[expected] > 1e-4).all()


def test_other_levels_see_their_whole_group():
    level = _level(causal=False)
    members = jax.random.normal(jax.random.key(0), (1, 6, 4))
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.square(level(x, train=False).tokens[0]) @ jnp.arange(4.0)))(members)
    sees = np.abs(np.asarray(jacobian)).sum((1, -1))
    np.testing.assert_array_equal(sees > 0, np.kron(np.eye(2), np.ones((1, 3))) > 0)
    assert jax.eval_shape(lambda x: level(x, train=False), members).states is None


@pytest.mark.parametrize(("last_state", "positions"), [(-2, (2, 4)), (-1, (2, 5))])
def test_the_token_of_a_causal_level_is_the_last_state_that_is_supervised(last_state, positions):
    level = _level(causal=True)
    level.output_norm = level.state_norm = None
    encode = jax.jit(lambda members: level(members, train=False, last_state=last_state))
    output = jax.device_get(encode(jax.random.normal(jax.random.key(0), (2, 6, 4))))
    np.testing.assert_array_equal(output.tokens, output.states[:, positions])
    np.testing.assert_array_equal(output.tokens, output.raw)


def test_patches_are_cut_row_by_row():
    picture = np.arange(4 * 6).reshape(1, 1, 4, 6, 1)
    patches = np.asarray(cut_patches(picture, 2))[0, 0]
    assert patches[:3].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert patches[3:].tolist() == [[12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]


def test_conv_stem_keeps_time_and_quarters_space():
    definition = small.define(
        **{"model.hierarchy": "patch-frame", "model.stem.kind": "conv", "model.stem.patch_size": 2}
    )
    assert definition.hierarchy.patches_per_frame == (16 // 8) * (24 // 8)

    @jax.jit
    def encode(params, stats, video):
        return state_lib.merge(definition.graphdef, params, stats).stem(video, train=False)

    tokens, raw = encode(*small.drawn_variables(definition), _video(definition))
    assert tokens.shape == raw.shape == (2, 4 * 6, 6)


EDGES = {
    "patch-frame": "patch->frame/up patch->patch/side frame->patch/down frame->frame/side",
    "frame-clip": "frame->clip/up frame->frame/side clip->frame/down",
    "frame-clip-sequence": "frame->clip/up frame->frame/side clip->sequence/up clip->frame/down clip->clip/side "
    "sequence->clip/down",
    "patch-frame-clip": "patch->frame/up patch->patch/side frame->clip/up frame->patch/down frame->frame/side "
    "clip->frame/down",
    "patch-frame-clip-sequence": "patch->frame/up patch->patch/side frame->clip/up frame->patch/down frame->frame/side "
    "clip->sequence/up clip->frame/down clip->clip/side sequence->clip/down",
}


@pytest.mark.parametrize("levels", HIERARCHIES, ids="-".join)
def test_edges(levels):
    sizes = levels, 2 if "sequence" in levels else 1, 2, 6
    edges = " ".join(map(str, Hierarchy(*sizes).possible_edges(side=True)))
    assert edges == EDGES["-".join(levels)]
    without = " ".join(map(str, Hierarchy(*sizes).possible_edges(side=False)))
    assert without.split() == [edge for edge in edges.split() if not edge.endswith("/side")]
    causal = Hierarchy(*sizes, causal=("frame", "clip", "sequence")).possible_edges(side=True)
    side = [str(edge) for edge in causal if edge.relation == "side"]
    assert side == ["patch->patch/side"] * ("patch" in levels)


def test_a_still_picture_has_no_neighbour_in_time():
    edges = Hierarchy(("patch", "frame"), 1, 1, 6).possible_edges(side=True)
    assert [str(edge) for edge in edges] == ["patch->frame/up", "frame->patch/down"]


def test_codes_by_hand():
    sizes = LEVELS, 2, 3, 6
    causal = Hierarchy(*sizes, causal=("clip",))
    down, side = Edge("clip", "frame", "down"), Edge("frame", "frame", "side")
    with_side, without = (small.predicting(Hierarchy(*sizes), side) for side in (True, False))
    assert with_side.codes(down) == {"member": 3}
    assert without.codes(down) == {"member": 3, "group": 2}
    assert small.predicting(causal, False).codes(down) == {}
    assert with_side.codes(side) == {"distance": 2 * 6 - 2}
    assert without.codes(Edge("sequence", "clip", "down")) == {"member": 2}
    assert (code_split(12, 2), code_split(10, 2), code_split(10, 1), code_split(10, 0)) == ((8, 4), (6, 4), (10,), ())


@functools.cache
def _gradient_of_codes(hidden):
    """Return compiled `f(codes asked for)`: the gradient in the codes of a predictor with BatchNorm."""
    norms = {"model.clip.predictor_norm": "batch", "model.clip.predictor_hidden_norm": "batch"}
    config = small.small_config(**norms, **{"model.clip.predictor_hidden": hidden})
    settings = read_settings(config).model.clip
    predictor = Predictor(settings, 6, {"member": 4}, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0))
    graphdef, params, stats = nnx.split(predictor, nnx.Param, nnx.BatchStat)
    tokens, target = (jax.random.normal(jax.random.key(n), (8, 1, size)) for n, size in ((1, settings.width), (2, 6)))

    def loss(params, asked):
        predicted = nnx.merge(graphdef, params, stats, copy=True)(tokens, {"member": asked}, train=True)
        return jnp.square(predicted - target).mean()

    return jax.jit(lambda asked: jax.grad(loss)(params, asked)["codes"]["member"]["table"][...])


def _code_gradient(shared: bool, hidden=()):
    """Largest gradient in the codes, asked by one token a video."""
    asked = np.full((8, 1), 2) if shared else np.arange(8)[:, None] % 4
    return np.abs(_gradient_of_codes(hidden)(asked)).max()


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_codes_are_heard_although_the_level_has_one_token_a_video(hidden):
    # The original asks the same of all videos; BatchNorm takes a constant away and its code table never learns.
    assert _code_gradient(shared=True, hidden=hidden) < 1e-6
    assert _code_gradient(shared=False, hidden=hidden) > 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.height": 20}, "data.height = 20 is no multiple of 8 .* use 16 or 24"),
        ({"data.width": 4}, "data.width = 4 is no multiple of 8 .* use 8"),
        ({"model.stem.kind": "conv"}, "data.height = 16 is no multiple of 32"),
        ({"model.num_clips": 1}, "model.num_clips = 1, but the level `sequence` needs at least 2"),
        ({"model.num_clips": 3}, "data.num_frames = 4 cannot be cut into model.num_clips = 3"),
        ({"model.num_clips": 8}, "data.num_frames = 4 cannot be cut into model.num_clips = 8"),
        (
            {"model.hierarchy": "frame-patch"},
            "model.hierarchy = .frame-patch., but must be one of patch-frame, ",
        ),
    ],
)
def test_impossible_sizes_are_named_with_its_numbers(change, words):
    with pytest.raises(SettingsError, match=words):
        small.define(**{"model.hierarchy": FULL} | change)


@pytest.mark.parametrize(
    ("hierarchy", "frames", "size", "level"),
    [("patch-frame", 2, 8, "frame"), ("frame-clip", 1, 16, "clip"), ("frame-clip-sequence", 2, 16, "clip")],
)
def test_a_causal_level_needs_two_members(hierarchy, frames, size, level):
    fields = {"data.num_frames": frames, "data.height": size, "data.width": size, f"model.{level}.causal": True}
    with pytest.raises(SettingsError, match=f"model.{level}.causal"):
        small.define(**{"model.hierarchy": hierarchy}, **fields)


def test_sizes_of_the_default():
    settings = small.small_settings(**{"model.hierarchy": FULL})
    hierarchy = model_hierarchy(settings.model, num_frames=4, height=16, width=24)
    assert [hierarchy.num_tokens(level) for level in LEVELS] == [24, 4, 2, 1]
    assert [hierarchy.num_members(level) for level in LEVELS[1:]] == [6, 2, 2]


def test_the_number_of_clips_counts_only_in_a_sequence():
    one, other = (small.define(**{"model.hierarchy": "frame-clip", "model.num_clips": clips}) for clips in (1, 3))
    assert one.hierarchy == other.hierarchy and one.hierarchy.num_clips == 1


def test_attention_of_a_level_is_that_of_its_token():
    members = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    attention = jax.jit(_level(causal=False).attention)
    shown = np.asarray(attention(members))
    assert shown.shape == (2, 2, 2, 3) and (shown > 0).all() and (shown.sum(-1) < 1).all()
    # The groups are looked at apart: exchanged, so are their weights.
    np.testing.assert_allclose(attention(np.roll(members, 3, axis=1)), np.roll(shown, 1, axis=1), rtol=1e-5)
    level = _level(causal=True)
    both = jax.jit(lambda members: [level.attention(members, last_state=state) for state in (-1, -2)])
    last, before = jax.device_get(both(members))
    np.testing.assert_allclose(last.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(before.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(last[:, 0], before[:, 0])
    # The state before the last one does not see the last member of the last group.
    assert (before[:, 1, :, 2] == 0).all() and (last[:, 1, :, 2] > 0).all()


@pytest.mark.parametrize("causal", [False, True])
def test_groups_encoded_one_part_after_the_other_give_the_same_numbers(x64, causal):
    """With a last part that is not full, dropout off; gradients of members and of every parameter, too."""
    settings = dataclasses.replace(small.small_settings().model.frame, causal=causal)
    members = jax.random.normal(jax.random.key(1), (2, 5 * 3, 6))

    def run(at_once):
        level = Level(
            dataclasses.replace(settings, groups_at_once=at_once), 6, 3, dtype=jnp.float64, rngs=nnx.Rngs(params=0)
        )
        graphdef, params, stats = nnx.split(level, nnx.Param, ...)

        def loss(params, members):
            output = nnx.merge(graphdef, params, stats, copy=True)(members, train=True)
            parts = (output.tokens, output.raw) + ((output.states,) if causal else ())
            return sum((jnp.sin(part) * jnp.arange(part.shape[-1])).sum() for part in parts)

        gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        return jax.device_get(gradients(nnx.to_pure_dict(params), members))

    (value, gradients), others = run(0), [run(at_once) for at_once in (1, 2, 5)]
    for other, found in others:
        np.testing.assert_allclose(other, value, rtol=1e-12)
        assert small.largest_difference(found, gradients) < 1e-11


def test_a_stem_that_computes_again_gives_the_same_numbers(x64):
    settings = small.small_settings(**{"model.stem.kind": "linear", "model.patch.output_norm": "batch"}).model
    video, valid = jax.random.normal(jax.random.key(1), (3, 2, 16, 24, 3)), jnp.array([True, True, False])

    def run(at_once):
        frame = dataclasses.replace(settings.frame, groups_at_once=at_once)
        stem = Stem(dataclasses.replace(settings, frame=frame, compute_dtype="float64"), rngs=nnx.Rngs(params=0))
        graphdef, params, stats = nnx.split(stem, nnx.Param, ...)

        def loss(params, video):
            again = nnx.merge(graphdef, params, stats, copy=True)
            tokens, raw = again(video, train=True, valid=valid)
            total = (jnp.sin(tokens) * jnp.arange(tokens.shape[-1])).sum() + jnp.cos(raw[:2]).sum()
            return total, nnx.to_pure_dict(nnx.state(again, nnx.BatchStat))

        gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        traced = gradients.trace(nnx.to_pure_dict(params), video)
        assert (" cond[" in str(traced.jaxpr)) == bool(at_once)  # computed again, behind a choice
        return jax.device_get(traced.lower().compile()(nnx.to_pure_dict(params), video))

    (value, gradients), (again, found) = run(0), run(1)
    assert small.largest_difference(again, value) < 1e-11
    assert small.largest_difference(found, gradients) < 1e-11
    assert np.ptp(value[1]["output_norm"]["mean"]) > 0  # moved


def test_dropout_differs_between_parts():
    settings = dataclasses.replace(small.small_settings().model.frame, dropout=0.5, groups_at_once=1)
    level = Level(settings, 6, 3, dtype=jnp.float32, rngs=nnx.Rngs(params=0))
    members = jnp.ones((1, 2 * 3, 6))
    graphdef, state = nnx.split(level)
    run = jax.jit(lambda state, key: nnx.merge(graphdef, state, copy=True)(members, train=True, key=key).raw[0])
    first, second = np.asarray(run(state, jax.random.key(0)))
    assert np.abs(first - second).max() > 1e-3
