"""Choosing among candidates: values by hand, who competes, who never does, and which gradients there are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.hierarchy import LEVELS, Edge, Hierarchy
from hvt_jax.objectives import contrastive, draws
from tests import small

SIZES = Hierarchy(LEVELS, num_clips=2, frames_per_clip=3, patches_per_frame=4)
TIMES, PATCHES, WIDTH, BATCH = 6, 4, 5, 3
SETTINGS = dataclasses.replace(small.small_settings().objective, distance="contrastive", contrastive_temperature=0.5)
ALL_PLACES = draws.Candidates(jnp.arange(PATCHES), {})
SIDE = Edge("frame", "frame", "side")


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _arrays(predictions, tokens, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    prediction, bank = rng.normal(size=(batch, predictions, WIDTH)), rng.normal(size=(batch, tokens, WIDTH))
    return prediction.astype(np.float32), bank.astype(np.float32), rng.integers(0, tokens, (batch, predictions))


def _losses(prediction, choice, edge, candidates=ALL_PLACES, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    run = jax.jit(lambda p, c, k: contrastive.choice_losses(p, c, edge, SIZES, settings, k))
    return np.asarray(run(prediction, choice, candidates))


def _by_hand(prediction, bank, index, competes):
    """Cross-entropy of predictions among the tokens that `competes(video, prediction, other video, token)` names."""
    losses = np.zeros(index.shape)
    p, t = _unit(prediction), _unit(bank)
    for video, prediction in np.ndindex(*index.shape):
        own = p[video, prediction] @ t[video, index[video, prediction]] / 0.5
        others = [
            p[video, prediction] @ t[other] / 0.5
            for other in np.ndindex(*bank.shape[:2])
            if other != (video, index[video, prediction]) and competes(video, prediction, *other)
        ]
        losses[video, prediction] = np.log(np.exp([own, *others]).sum()) - own
    return losses


def test_all_tokens_of_the_video_compete_but_the_source():
    prediction, bank, index = _arrays(TIMES, TIMES)
    index = (np.arange(TIMES) + 1 + index % (TIMES - 1)) % TIMES
    found = _losses(prediction, contrastive.Choice(bank, index, jnp.arange(TIMES), None), SIDE)
    expected = _by_hand(prediction, bank, index, lambda v, q, other, m: other == v and m != q)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    from_above = contrastive.Choice(bank[:, :2], index[:, :2] % 2, None, None)
    found = _losses(prediction[:, :2], from_above, Edge("sequence", "clip", "down"))
    expected = _by_hand(prediction[:, :2], bank[:, :2], index[:, :2] % 2, lambda v, q, other, m: other == v)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_near_in_time_or_not_valid_is_no_candidate():
    prediction, bank, index = _arrays(TIMES, TIMES)
    valid = np.ones((BATCH, TIMES), bool)
    valid[1, 2:] = False
    choice = contrastive.Choice(bank, index, None, valid)
    found = _losses(prediction, choice, SIDE, least_distance=2)
    expected = _by_hand(
        prediction, bank, index, lambda v, q, other, m: other == v and valid[other, m] and abs(m - index[v, q]) >= 2
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    junk = np.where(valid[..., None], bank, 7e3)
    wanted_is_valid = np.take_along_axis(valid, index, 1)
    other = _losses(prediction, choice._replace(tokens=junk), SIDE, least_distance=2)
    np.testing.assert_array_equal(found[wanted_is_valid], other[wanted_is_valid])


@pytest.mark.parametrize("kind", ["a prediction a frame", "a prediction a patch", "causal"])
def test_patches_compete_with_other_times_of_their_place_and_places_of_their_frame(kind):
    total = TIMES * PATCHES
    predictions = {"a prediction a frame": TIMES, "a prediction a patch": total, "causal": total - 1}[kind]
    prediction, bank, index = _arrays(predictions, total)
    source, places = None, np.array([2, 0])
    if kind == "a prediction a patch":
        times = np.random.default_rng(5).integers(0, TIMES, (BATCH, TIMES))
        index = (times[..., None] * PATCHES + np.arange(PATCHES)).reshape(BATCH, -1)
        source = jnp.arange(total)
    elif kind == "causal":
        index = np.broadcast_to(np.arange(1, total), (BATCH, total - 1))
    edge = Edge("patch", "patch", "side") if source is not None else Edge("frame", "patch", "down")
    candidates = draws.Candidates(jnp.asarray(places), {})

    def competes(video, prediction, other, token):
        wanted = index[video, prediction]
        same_place = token % PATCHES == wanted % PATCHES
        is_source = source is not None and token == prediction
        same_frame = token // PATCHES == wanted // PATCHES and token % PATCHES in places
        return other == video and (same_place and not is_source or same_frame)

    if source is not None:  # a target that is the source itself is never drawn
        index = np.where(index == np.arange(total), (index + PATCHES) % total, index)
        index = (index.reshape(BATCH, TIMES, PATCHES)[:, :, :1] // PATCHES * PATCHES + np.arange(PATCHES)).reshape(
            BATCH, -1
        )
    found = _losses(prediction, contrastive.Choice(bank, index, source, None), edge, candidates)
    np.testing.assert_allclose(found, _by_hand(prediction, bank, index, competes), rtol=1e-5)


def test_the_batch_competes_by_a_draw_of_its_tokens():
    prediction, bank, index = _arrays(TIMES, TIMES)
    drawn = np.array([[0, 1], [0, 4], [1, 0], [2, 5], [2, 2]])
    candidates = draws.Candidates(jnp.arange(PATCHES), {str(SIDE): jnp.asarray(drawn)})
    source = jnp.arange(TIMES)
    index = np.where(index == np.arange(TIMES), (index + 1) % TIMES, index)
    options = {"video_candidates_weight": 0.0, "batch_candidates_weight": 2.0}
    found = _losses(prediction, contrastive.Choice(bank, index, source, None), SIDE, candidates, **options)
    expected = _by_hand(
        prediction,
        bank,
        index,
        lambda v, q, other, m: [other, m] in drawn.tolist() and not (other == v and m == q),
    )
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)


def test_alone_a_target_costs_nothing_and_gradients_are_finite_at_zero():
    prediction, bank, _ = _arrays(2, 1)
    alone = contrastive.Choice(bank, np.zeros((BATCH, 2), int), None, None)
    assert not _losses(prediction, alone, Edge("frame", "clip", "up")).any()
    zero = np.zeros((BATCH, TIMES, WIDTH), np.float32)
    index = np.broadcast_to(np.arange(TIMES), (BATCH, TIMES))

    def total(prediction, bank):
        choice = contrastive.Choice(bank, index, None, None)
        return contrastive.choice_losses(prediction, choice, SIDE, SIZES, SETTINGS, ALL_PLACES).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(zero, zero):
        assert np.isfinite(gradient).all()


def test_the_draw_of_candidates():
    hierarchy = small.predicting(dataclasses.replace(SIZES, causal=("clip",)))
    sizes = {"batch": 7, "places": 3, "tokens": 50}
    one, again = (draws.draw_candidates(jax.random.key(1), hierarchy, **sizes) for _ in range(2))
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), one, again))
    assert len(set(np.asarray(one.places).tolist())) == 3 and set(one.tokens) == set(map(str, hierarchy.edges))
    # What predicts up to a causal level asks for its states, of which there is one a member.
    for name, limit in {
        "patch->frame/up": 6,
        "frame->clip/up": 6,
        "clip->frame/down": 6,
        "frame->patch/down": 24,
    }.items():
        tokens = np.asarray(one.tokens[name])
        assert tokens.min() == 0 and (tokens.max(0) == [6, limit - 1]).all(), name
    assert draws.draw_candidates(jax.random.key(1), hierarchy, **sizes | {"tokens": 0}).tokens == {}


def test_nothing_predicts_up_to_a_single_token_unless_the_batch_competes():
    fields = {"model.hierarchy": "frame-clip-sequence", "objective.distance": "contrastive"}
    names = [str(edge) for edge in small.define(**fields).hierarchy.edges]
    assert "frame->clip/up" in names and "clip->sequence/up" not in names
    batch = small.define(**fields, **{"objective.batch_candidates_weight": 0.1})
    assert "clip->sequence/up" in [str(edge) for edge in batch.hierarchy.edges]
    causal = small.define(**fields, **{"model.sequence.causal": True})
    assert "clip->sequence/up" in [str(edge) for edge in causal.hierarchy.edges]


def test_a_level_that_would_predict_nothing_chooses_among_the_batch():
    """Single images: patches predict up to the one frame, which chooses patches among other places."""
    fields = {"model.hierarchy": "patch-frame", "data.num_frames": 1, "objective.distance": "contrastive"}
    definition = small.define(**fields, **{"objective.place_candidates": 0, "objective.patch_targets": "change"})
    assert [str(edge) for edge in definition.hierarchy.edges] == ["patch->frame/up", "frame->patch/down"]
    variables, batch = small.drawn_variables(definition), small.batch_of(definition)
    run = small.loss_and_gradients(definition)
    (_, found), gradients = run(*variables, batch, jax.random.key(0))
    assert all(float(loss) > 0.1 for edges in found[0].edges.values() for loss in edges.values())
    assert all(np.abs(leaf).max() > 0 for name, leaf in small.named_leaves(gradients).items() if "kernel" in name)


def test_no_more_than_64_mb_of_cosines_at_vit_s_size():
    """16 frames of 224 pixels, batch 64: traced, nothing is computed."""
    hierarchy, batch, width = small.predicting(Hierarchy(LEVELS, 4, 4, 196)), 64, 384
    settings = dataclasses.replace(SETTINGS, batch_candidates_weight=1.0)
    sizes = {"batch": batch, "places": settings.place_candidates, "tokens": 512}
    drawn = jax.eval_shape(lambda: draws.draw_candidates(jax.random.key(0), hierarchy, **sizes))
    for edge in hierarchy.edges:
        predictions, tokens = hierarchy.num_tokens(edge.source), hierarchy.num_tokens(edge.target)
        prediction, bank = (jax.ShapeDtypeStruct((batch, n, width), jnp.float32) for n in (predictions, tokens))
        index = jax.ShapeDtypeStruct((batch, predictions), jnp.int32)
        source = jnp.arange(predictions) if edge.relation == "side" else None

        def losses(p, b, i, k, edge=edge, source=source):
            return contrastive.choice_losses(p, contrastive.Choice(b, i, source, None), edge, hierarchy, settings, k)

        program = jax.make_jaxpr(losses)(prediction, bank, index, drawn)
        found = [out.aval for equation in program.eqns for out in equation.outvars]
        cosines = [x for x in found if x.dtype == jnp.float32 and x.ndim >= 3 and x.shape[-1] != width]
        assert cosines and max(x.size * 4 for x in cosines) <= 64e6, str(edge)
