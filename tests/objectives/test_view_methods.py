"""Methods that compare views of a video: `svt`, `brave`, and what they share with `vicreg`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.model.sizes import other_size
from hvt_jax.objectives import teacher
from hvt_jax.objectives.method import Inputs, counted_videos
from hvt_jax.settings import SettingsError
from hvt_jax.settings.geometry import model_hierarchy
from tests import small
from tests.parity_case import quick_jit

KEY = jax.random.key(0)
FRAME_CLIP = {"model.hierarchy": "frame-clip"}


def _random(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda shape: rng.normal(size=shape.shape).astype(np.float32), shapes)


def _losses(definition, model, video, **given):
    inputs = Inputs(video, given.pop("valid", None), given.pop("frame_valid", None), None, None, {}, **given)
    return definition.method.losses(model, inputs, definition.settings, key=None).losses


@pytest.mark.parametrize("name", ["vicreg", "svt", "brave"])
def test_a_step_takes_views_and_keeps_the_shape_of_its_state(name):
    definition = small.define(method=name, **{"model.hierarchy": "patch-frame-clip-sequence"})
    state, batch = jax.eval_shape(small.initialise(definition), KEY), steps.batch_shapes(definition, 4)
    after, metrics = jax.eval_shape(small.train_step(definition), state, batch, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"train/total", "monitor/sequence/rank", "gradient_norm/patch"} <= metrics.keys()


def test_views_are_changed_apart_and_cut_to_their_sizes():
    fields = {"augmentation.color_jitter_probability": 1.0}
    definition = small.define(method="svt", **FRAME_CLIP, **fields)
    batch = small.batch_of(definition)
    same = {name: np.repeat(video[:, :1], video.shape[1], axis=1) for name, video in batch["video"].items()}
    same["local"] = np.repeat(batch["video"]["global"][:, :1, :2], 2, axis=1)  # whole frames, as the loader cuts them
    found = quick_jit(lambda video: steps.prepare_training(definition, KEY, video))(same)
    assert found["global"].shape == (4, 2, 4, 16, 24, 3) and found["local"].shape == (4, 2, 2, 8, 8, 3)
    for views in found.values():
        assert np.abs(views[:, 0] - views[:, 1]).max() > 0.1
        np.testing.assert_allclose(views[0, 0, 0].shape, views[0, 0, 1].shape)


def test_svt_asks_every_view_what_the_teacher_names_for_the_other_global_ones():
    definition = small.define(method="svt", **FRAME_CLIP)
    video = _random(steps.batch_shapes(definition, 4)["video"])
    memory = {"center": np.float32(0.1) * _random(jax.ShapeDtypeStruct((10,), np.float32))}
    local = model_hierarchy(definition.settings.model, num_frames=2, height=8, width=8)

    @quick_jit
    def run(one, other):
        student, wise = (state_lib.merge(definition.graphdef, *variables) for variables in (one, other))
        losses = _losses(definition, student, video, teacher=wise, memory=memory, progress=0.15)

        def cosines(model, views, size=None):
            views = jnp.concatenate([views[:, 0], views[:, 1]])
            outputs = model(views, train=True, isolated=False, last_state=-1, size=size)
            return model.head(outputs["clip"].tokens.mean(1, keepdims=True), train=True)[:, 0]

        smaller = other_size(student, local, ((2, 3), (1, 1)))
        return losses, (
            cosines(wise, video["global"]),
            cosines(student, video["global"]),
            cosines(student, video["local"], smaller),
        )

    found, (wanted, wide, narrow) = run(*(small.drawn_variables(definition, seed) for seed in (0, 1)))
    temperature = 0.04 + 0.03 * 0.15 / 0.3
    answers = np.asarray(jax.nn.softmax((wanted - memory["center"]) / temperature)).reshape(2, 4, 10)
    views = np.concatenate([wide, narrow]).reshape(4, 4, 10)
    logs = np.asarray(jax.nn.log_softmax(views / 0.1))
    pairs = [-(answers[v] * logs[w]).sum(-1).mean() for v in range(2) for w in range(4) if v != w]
    np.testing.assert_allclose(found.total, np.mean(pairs), rtol=1e-4)
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-4, atol=1e-6)
    assert 0 < found.entropy <= 1


def test_svt_moves_its_teacher_and_its_center():
    definition = small.define(method="svt", **FRAME_CLIP)
    params, _ = small.drawn_variables(definition)
    moved = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), params)
    losses = type("Losses", (), {"mean": np.arange(10, dtype=np.float32)})

    @jax.jit
    def follow(params, moved, progress):
        memory = definition.method.initial_memory(definition.settings, params)
        return definition.method.next_memory(definition.settings, memory, moved, losses, progress)

    after = follow(params, moved, 0.5)
    momentum = 1 - 0.004 / 2
    for name, leaf in small.named_leaves(after["params"]).items():
        np.testing.assert_allclose(leaf, small.named_leaves(params)[name] + 1 - momentum, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["center"], 0.1 * np.arange(10.0), rtol=1e-6)
    assert float(teacher.cosine_to_one(0.9, 0.0)) == pytest.approx(0.9)
    assert float(teacher.cosine_to_one(0.9, 1.0)) == float(teacher.linear_to_one(0.9, 1.0)) == 1.0


def test_svt_keeps_a_sound_teacher_after_a_bad_step():
    definition = small.define(method="svt", **FRAME_CLIP)
    state, batch = small.new_state(definition), small.batch_of(definition)
    after, _ = small.train_step(definition)(state, batch | {"valid": np.zeros(4, bool)}, KEY)
    assert small.largest_difference(after.memory, state.memory) == 0
    after, metrics = small.train_step(definition)(state, batch, KEY)
    assert small.largest_difference(after.memory, state.memory) > 0
    assert np.isfinite(metrics["train/total"]) and metrics["gradient_norm/head"] > 0


def test_brave_predicts_each_view_from_the_other_whose_projection_is_stopped():
    definition = small.define(method="brave", **FRAME_CLIP)
    params, stats = small.drawn_variables(definition)
    video = _random(steps.batch_shapes(definition, 4)["video"])
    assert video["broad"].shape == (4, 1, 8, 8, 16, 3) and video["narrow"].shape == (4, 1, 4, 16, 24, 3)

    @quick_jit
    @jax.value_and_grad
    def half(params, share):
        model = state_lib.merge(definition.graphdef, params, stats)
        losses = _losses(definition, model, video)
        return share * losses.narrow + (1 - share) * losses.broad

    for name, other in (("narrow", "broad"), ("broad", "narrow")):
        value, gradient = half(params, 1.0 if name == "narrow" else 0.0)
        assert 0 < value < 4
        sizes = {part: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) for part, tree in gradient.items()}
        assert sizes[f"{other}_projector"] == sizes[f"{other}_predictor"] == 0
        assert min(sizes[f"{name}_projector"], sizes[f"{name}_predictor"], sizes["levels"]) > 0


def test_a_video_counts_whose_views_are_mostly_pictures():
    own = {"a": np.ones((3, 2, 4), bool), "b": np.ones((3, 1, 2), bool)}
    own["a"][1, 1, 1:] = False
    count = jax.jit(counted_videos)
    assert count(None, own).tolist() == [True, False, True]
    assert count(np.array([False, True, True]), own).tolist() == [False, False, True]
    assert count(None, np.array([[True, False], [False, False]])).tolist() == [True, False]
    assert counted_videos(None, None) is None
    definition = small.define(method="brave", **FRAME_CLIP)
    variables, video = small.drawn_variables(definition), _random(steps.batch_shapes(definition, 4)["video"])
    frames = {name: np.ones(view.shape[:3], bool) for name, view in video.items()}
    padded = frames | {"broad": frames["broad"].copy()}
    padded["broad"][0, 0, 3:] = False

    @quick_jit
    def total(frame_valid):
        model = state_lib.merge(definition.graphdef, *variables)
        return _losses(definition, model, video, frame_valid=frame_valid).total

    assert abs(float(total(padded)) - float(total(frames))) > 1e-5


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        (
            "svt",
            {"svt.local_frames": 3, "model.hierarchy": "frame-clip-sequence"},
            "svt.local_frames = 3 cannot be cut",
        ),
        ("brave", {"brave.narrow_stride": 9}, "a narrow view of 28 frames does not fit a broad one of 15"),
        ("brave", {"brave.broad_frames": 9, "model.hierarchy": "frame-clip-sequence"}, "brave.broad_frames = 9 cannot"),
    ],
)
def test_views_that_do_not_fit_are_refused_in_one_line(method, fields, said):
    with pytest.raises(SettingsError, match=said) as caught:
        small.define(method=method, **fields)
    assert "\n" not in str(caught.value)
