"""Errors by token: their means are the losses that training would have had for the same questions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import augmentation, state, steps
from hvt_jax.evaluation import surprise
from hvt_jax.hierarchy import Edge
from hvt_jax.objectives import draws, local
from tests import small

CONTRASTIVE = {"objective.distance": "contrastive", "objective.place_candidates": 2}


def _measure(definition, frame_valid, **asked):
    """Return the maps of a model, and losses of edges by `local`, in evaluation mode, of draws `asked`."""
    video = small.batch_of(definition)["video"]

    @jax.jit
    def run(params, stats):
        data, objective = definition.settings.data, definition.settings.objective
        pixels = augmentation.normalise(augmentation.centre_crop(video, data.height, data.width), data.mean, data.std)
        model = state.merge(definition.graphdef, params, stats)
        outputs = model(pixels, train=False)
        candidates = steps.draw_targets(definition, jax.random.key(0), pixels, frame_valid).candidates
        losses = {}
        for name, draw in asked.items():
            found = local.predict(model, outputs, draw, train=False, frame_valid=frame_valid)
            for edge in definition.hierarchy.edges:
                if str(edge) in draw or edge.relation == "up" or edge.source in definition.hierarchy.causal:
                    loss = local.edge_loss(objective, edge, definition.hierarchy, found[str(edge)], candidates)
                    losses.setdefault(str(edge), {})[name] = loss
        return surprise.build_surprise(definition)(params, stats, video, frame_valid), losses

    return jax.device_get(run(*small.drawn_variables(definition)))


def _edge(name):
    source, rest = name.split("->")
    return Edge(source, *rest.split("/"))


def test_means_of_the_maps_are_losses_of_training():
    definition = small.define(**{"model.hierarchy": "patch-frame-clip-sequence"}, **CONTRASTIVE)
    hierarchy = definition.hierarchy
    frame_valid = jnp.array([[True] * 4] * 3 + [[True] * 3 + [False]])

    @jax.jit
    def every_draw():
        edges = [edge for edge in hierarchy.edges if edge.relation != "up"]
        return {str(edge): draws.every_draw(edge, hierarchy, batch=small.BATCH, std_divisor=3.0)[0] for edge in edges}

    every = jax.device_get(every_draw())
    some, last = (jax.tree.map(lambda array, number=number: array[number], every) for number in (0, -1))
    maps, losses = _measure(definition, frame_valid, some=some, last=last)
    assert sorted(maps) == sorted(map(str, hierarchy.edges))
    for name, found in maps.items():
        edge, level = _edge(name), surprise.map_level(_edge(name))
        error, blind = found["error"], found["blind"]
        assert error.shape == blind.shape == (small.BATCH, hierarchy.num_tokens(level))
        padded = np.zeros(error.shape, bool)
        if level in ("patch", "frame"):
            padded[3, -error.shape[1] // 4 :] = True
        np.testing.assert_array_equal(np.isnan(error), padded)
        if edge.relation == "up":
            np.testing.assert_allclose(np.nanmean(error), losses[name]["some"], rtol=1e-5)
    # A clip has one other time, so all its questions are one draw; a clip has two frames, a sequence two clips.
    np.testing.assert_allclose(
        np.nanmean(maps["clip->clip/side"]["error"]), losses["clip->clip/side"]["some"], rtol=1e-5
    )
    of_both = [losses["sequence->clip/down"][name] for name in ("some", "last")]
    np.testing.assert_allclose(np.nanmean(maps["sequence->clip/down"]["error"]), np.mean(of_both), rtol=1e-5)
    first = maps["clip->frame/down"]["error"][:, ::2]
    np.testing.assert_allclose(np.nanmean(first), losses["clip->frame/down"]["some"], rtol=1e-5)
    # Blind among the two clips of a video, and among its four frames, of which one of the last video is padding.
    np.testing.assert_allclose(maps["sequence->clip/down"]["blind"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(maps["clip->frame/down"]["blind"][:3], np.log(4), rtol=1e-5)
    np.testing.assert_allclose(maps["clip->frame/down"]["blind"][3, :3], np.log(3), rtol=1e-5)


@pytest.mark.parametrize("distance", ["smooth_l1", "vicreg"])
def test_causal_levels_and_targets_that_are_hit(distance):
    definition = small.define(**{"objective.distance": distance}, causal=True)
    maps, losses = _measure(definition, jnp.ones((small.BATCH, 4), bool), none={})
    assert sorted(maps) == ["clip->frame/down", "frame->clip/up"]
    for name, found in maps.items():
        # Nothing says what the first frame is, and nothing has come before it that could be told.
        assert np.isnan(found["error"][:, 0]).all() and np.isfinite(found["error"][:, 1:]).all()
        if distance == "smooth_l1":
            np.testing.assert_allclose(np.nanmean(found["error"]), losses[name]["none"], rtol=1e-5)
    assert (maps["clip->frame/down"]["blind"][:, 1:] > 0).all()
