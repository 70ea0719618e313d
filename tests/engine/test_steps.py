"""The training step as a whole: masks, derivatives, precision, metrics and what a NaN may touch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import optim, steps
from hvt_jax.engine import state as state_lib
from hvt_jax.hierarchy import HIERARCHIES, LEVELS
from hvt_jax.objectives import local
from tests import small

HIERARCHY = {"model.hierarchy": "patch-frame-clip"}
KEY = jax.random.key(3)
# BatchNorm wherever one can be.
BATCH_NORM = {
    f"model.{level}.{norm}": "batch"
    for level in LEVELS
    for norm in ("output_norm", "predictor_hidden_norm", "predictor_norm")
}
PLAIN_SGD = {"optimizer.name": "sgd", "optimizer.weight_decay": 0.0, "optimizer.momentum": 0.0}


def _with_garbage(batch, place, seed=9):
    """Insert an invalid video of noise at `place`."""
    junk = np.random.default_rng(seed).integers(0, 256, (1, *batch["video"].shape[1:]), np.uint8)
    video = np.concatenate([batch["video"][:place], junk, batch["video"][place:]])
    return {"video": video, "valid": np.insert(batch["valid"], place, False)}


def _run(definition):
    @jax.jit
    def run(params, stats, batch, draws):
        video = steps.prepare_training(definition, KEY, batch["video"])
        weights = steps.edge_weights(definition, jnp.int32(0), 8)
        loss = steps.build_loss(definition, {**batch, "video": video}, draws, weights)
        (_, (losses, _, _, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(params, stats, KEY)
        return losses, gradients, stats

    return run


def test_the_content_of_an_invalid_video_changes_nothing_and_the_batch_is_that_without_it():
    """With statistics over the batch in levels and predictors; distances and norms alone in their own tests."""
    kind = {"model.hierarchy": "frame-clip", "objective.distance": "vicreg"}
    definition = small.define(**BATCH_NORM, **kind)
    variables, batch, run = small.drawn_variables(definition), small.batch_of(definition), _run(definition)
    asked = jax.jit(functools.partial(steps.draw_targets, definition, KEY))(batch["video"])
    alone = run(*variables, batch, asked)
    asked = asked._replace(edges=jax.tree.map(lambda x: np.insert(x, 1, 0, axis=0), asked.edges))
    one, other = (run(*variables, _with_garbage(batch, 1, seed), asked) for seed in (0, 1))
    for without, left, right in zip(alone, one, other, strict=True):
        assert small.largest_difference(left, right) < 1e-6
        assert small.largest_difference(without, left) < 1e-5
    moved = run(*variables, small.batch_of(definition, seed=5, size=small.BATCH + 1), asked)
    assert small.largest_difference(one[1], moved[1]) > 1e-3


@pytest.fixture(scope="module")
def guarded():
    """A step with statistics wherever they can be, that clips and decays nothing, and its first state."""
    definition = small.define(**HIERARCHY, **BATCH_NORM, **PLAIN_SGD, **{"optimizer.clip_norm": 0.5})
    return definition, small.new_state(definition), small.train_step(definition)


def test_a_batch_without_any_valid_video_moves_nothing(guarded):
    definition, state, step = guarded
    batch = small.batch_of(definition)
    after, metrics = step(state, batch | {"valid": np.zeros(small.BATCH, bool)}, KEY)
    assert all(np.isfinite(value) for value in metrics.values())
    for part in ("params", "stats"):
        before, now = (small.named_leaves(getattr(s, part)) for s in (state, after))
        assert all((before[name] == now[name]).all() for name in before)
    assert int(after.step) == 1 and float(metrics["data/valid_share"]) == 0.0
    good, metrics = step(after, batch, KEY)
    assert all(np.isfinite(leaf).all() for leaf in small.named_leaves(good).values())
    assert small.largest_difference(after.params, good.params) > 1e-6
    assert float(metrics["data/valid_share"]) == 1.0


def test_derivatives_equal_finite_differences(x64):
    """Of the total in all parameters, with everything that is stopped held at its value."""
    fields = {"model.compute_dtype": "float64", "model.clip.causal": True, "objective.distance": "vicreg"}
    definition = small.define(**{"model.hierarchy": "frame-clip"}, **fields)
    drawn = small.drawn_variables(definition)
    params, stats = jax.device_put(jax.tree.map(lambda x: np.asarray(x, np.float64), drawn))

    @jax.jit
    def prepare(video):
        video = steps.prepare_training(definition, KEY, video).astype(jnp.float64)
        return video, steps.draw_targets(definition, KEY, video)

    video, draws = prepare(small.batch_of(definition)["video"])
    weights = {str(edge): 0.5 + index for index, edge in enumerate(definition.hierarchy.edges)}
    loss = jax.jit(jax.value_and_grad(steps.build_loss(definition, {"video": video}, draws, weights), has_aux=True))
    (total, (_, outputs, predictions, _)), gradients = loss(params, stats, None)

    @jax.jit
    def frozen_total(params):
        pyramid = state_lib.merge(definition.graphdef, params, stats)
        patches, _ = pyramid.stem(video, train=True)
        found = {"frame": pyramid.levels["frame"](patches, train=True)}
        found["clip"] = pyramid.levels["clip"](outputs["frame"].tokens, train=True)
        moving = local.predict(pyramid, found, draws.edges, train=True)
        pairs = {name: predictions[name]._replace(prediction=moving[name].prediction) for name in moving}
        parts = definition.hierarchy, definition.settings.objective
        return local.local_losses(pairs, found, *parts, edge_weights=weights).total

    np.testing.assert_allclose(frozen_total(params), total, rtol=1e-12)
    rng, start, gradients = np.random.default_rng(0), *jax.device_get((params, gradients))
    for _ in range(3):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        moved = [
            frozen_total(jax.tree.map(lambda x, d, size=size: x + size * d, start, direction)) for size in (1e-6, -1e-6)
        ]
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
        np.testing.assert_allclose((moved[0] - moved[1]) / 2e-6, sum((g * d).sum() for g, d in pairs), rtol=1e-6)


def _losses_and_gradients(**overrides):
    definition = small.define(**{"model.hierarchy": "frame-clip", "model.frame.depth": 2}, **overrides)
    variables, batch = small.drawn_variables(definition), small.batch_of(definition)
    found = small.loss_and_gradients(definition)(*variables, batch, KEY)
    (total, (losses, _, _, stats)), gradients = jax.device_get(found)
    return float(total), losses, stats, gradients


def test_bfloat16_computes_close_by_and_keeps_float32():
    single, half = _losses_and_gradients(), _losses_and_gradients(**{"model.compute_dtype": "bfloat16"})
    assert half[0] == pytest.approx(single[0], rel=0.05) and half[0] != single[0]
    leaves = jax.tree.leaves(half[2:])
    assert leaves and all(leaf.dtype == np.float32 for leaf in leaves)
    definition = small.define(**{"model.compute_dtype": "bfloat16"})
    params, _ = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def ordinary():
    """A step with dropout, a frozen encoder, an edge of another weight and monitors in every third step."""
    fields = {"model.frame.dropout": 0.3, "logging.interval_steps": 3, "optimizer.frozen": ("clip",)}
    fields |= {"objective.edge_weights.frame.up": 0.25}
    definition = small.define(**{"model.hierarchy": "frame-clip"}, **fields)
    return definition, small.new_state(definition), small.train_step(definition)


def test_dropout_is_a_function_of_key_and_step(ordinary):
    definition, state, step = ordinary
    batch = small.batch_of(definition)
    one, again, other = (step(state, batch, jax.random.key(seed))[1]["train/total"] for seed in (0, 0, 1))
    assert one == again != other
    later = step(state.replace(step=state.step + 1), batch, jax.random.key(0))[1]["train/total"]
    assert later != one


def test_names_of_the_metrics_and_the_weights_of_the_total(ordinary):
    definition, state, step = ordinary
    batch = small.batch_of(definition)
    edges = ["frame->clip/up", "frame->frame/side", "clip->frame/down"]
    names = {"train/total", "data/valid_share", "train/frame/regularizer", "train/clip/regularizer", "longest_bad_row"}
    names |= {"alarms/rollbacks"}
    names |= {f"train/{edge}" for edge in edges} | {f"monitor/{edge}/mean_ratio" for edge in edges}
    names |= {"monitor/frame->frame/side/copy_ratio"}  # the others go between levels of different widths
    for label in ("frame", "frame/predictors", "clip", "clip/predictors"):
        names |= {f"{kind}_norm/{label}" for kind in ("gradient", "update")}
        names |= {f"{kind}_updates/{label}" for kind in ("skipped", "consecutive")}
    monitors = ("rank", "rank_share", "std", "std_share", "cosine")
    names |= {f"monitor/{level}/{name}" for level in ("frame", "clip") for name in monitors}
    is_measured = []
    for _ in range(6):
        state, metrics = step(state, batch, KEY)
        assert metrics.keys() == names
        assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
        is_measured.append(float(metrics["monitor/frame/rank"]) > 0)
    # The loop logs the first step and every third; only there are the monitors worth their cost.
    assert is_measured == [True, False, True, False, False, True]
    weights = dict.fromkeys(edges, 1.0) | {"frame->clip/up": 0.25}
    weighted = sum(weights[edge] * float(metrics[f"train/{edge}"]) for edge in edges)
    own = sum(float(metrics[f"train/{level}/regularizer"]) for level in ("frame", "clip"))
    total = weighted + definition.settings.objective.regularizer_weight * own
    assert float(metrics["train/total"]) == pytest.approx(total, rel=1e-5)


def _poison(state, *path):
    params = jax.tree.map(lambda x: x, state.params)
    here = params
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = here[path[-1]].at[(0,) * here[path[-1]].ndim].set(jnp.nan)
    return state.replace(params=params)


@pytest.mark.parametrize(
    ("path", "touched"),
    [
        # A predictor's NaN stays in its level: the encoder's gradient comes through it.
        (("levels", "frame", "predictors", "down", "out", "kernel"), {"frame", "frame/predictors"}),
        # An encoder's NaN is in its tokens: in all levels above, and as a target in the level below.
        (
            ("levels", "clip", "transformer", "norm", "bias"),
            {"frame", "frame/predictors", "clip", "clip/predictors"},
        ),
        (
            ("stem", "embedding", "bias"),
            {f"{level}{kind}" for level in ("patch", "frame", "clip") for kind in ("", "/predictors")},
        ),
    ],
    ids=["predictor", "top", "stem"],
)
def test_a_nan_stops_the_labels_it_reaches_and_no_other(guarded, path, touched):
    definition, state, step = guarded
    state, batch = _poison(state, *path), small.batch_of(definition)
    labels = definition.groups
    before = small.named_leaves(state.params)
    for count in (1, 2):
        state, metrics = step(state, batch, KEY)
        for label in labels:
            bad = count if label in touched else 0
            assert int(metrics[f"skipped_updates/{label}"]) == int(metrics[f"consecutive_updates/{label}"]) == bad
            assert (float(metrics[f"update_norm/{label}"]) > 0) == (label not in touched)
            assert np.isfinite(metrics[f"gradient_norm/{label}"]) == (label not in touched)
        assert int(metrics["longest_bad_row"]) == count
    after = small.named_leaves(state.params)
    moved = {name for name in after if not np.array_equal(before[name], after[name], equal_nan=True)}
    root = {"patch": "stem", "frame": "levels/frame", "clip": "levels/clip"}
    for label in labels:
        level, _, predictors = label.partition("/")
        own = f"levels/{level}/predictors" if predictors else root[level]
        names = [name for name in moved if name.startswith(own) and ("/predictors/" in name) == bool(predictors)]
        assert bool(names) == (label not in touched)
    # Running statistics and optimizer moments never hold a NaN; the poisoned parameter is the only one.
    rest = small.named_leaves((state.stats, state.opt_state._replace(norms=())))
    assert all(np.isfinite(leaf).all() for leaf in rest.values())
    assert sum(np.isnan(leaf).sum() for leaf in after.values()) == 1


def test_a_good_step_ends_a_row_of_bad_ones(guarded):
    definition, healthy, step = guarded
    batch, path = small.batch_of(definition), ("levels", "frame", "predictors", "down", "out", "kernel")
    state, _ = step(_poison(healthy, *path), batch, KEY)
    state, metrics = step(state.replace(params=healthy.params), batch, KEY)
    assert int(metrics["consecutive_updates/frame"]) == 0
    assert int(metrics["skipped_updates/frame"]) == int(metrics["longest_bad_row"]) == 1


def test_encode_gives_a_feature_per_level_and_video_by_running_statistics():
    definition = small.define(**HIERARCHY, **{"data.resize_margin": 1.5})
    state, data = small.new_state(definition), definition.settings.data
    encode = jax.jit(steps.build_encode(definition))
    large = np.random.default_rng(0).integers(0, 256, (3, 4, 24, 36, 3), np.uint8)
    found = encode(state.params, state.stats, large)
    widths = {"patch": 6, "frame": 8, "clip": 10}
    assert {level: feature.shape for level, feature in found.items()} == {level: (3, widths[level]) for level in widths}
    middle = large[:, :, 4:20, 6:30]
    video = (middle / 255 - np.array(data.mean)) / np.array(data.std)

    @jax.jit
    def tokens(params, stats, video):
        return state_lib.merge(definition.graphdef, params, stats)(video, train=False)["frame"].tokens

    expected = np.asarray(tokens(state.params, state.stats, video.astype(np.float32))).mean(1)
    np.testing.assert_allclose(found["frame"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", HIERARCHIES, ids="-".join)
def test_describe_names_levels_edges_and_counts(levels, monkeypatch):
    from hvt_jax.run import describe

    monkeypatch.setattr(describe, "count_flops", lambda _: (2e6, 5e6))  # lowered in tests/run/test_describe.py
    definition = small.define(**{"model.hierarchy": "-".join(levels)})
    text = describe.describe(definition)
    assert all(f"{edge} (weight 1)" in text for edge in definition.hierarchy.edges)
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert [row for row in rows if row in LEVELS] == list(levels)
    params, _ = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert f"total     {total:,d} parameters" in text


def test_weights_move_to_one():
    definition = small.define(
        **{
            "model.hierarchy": "frame-clip",
            "objective.weights_to_uniform": True,
            "objective.edge_weights.frame.up": 0.0,
        }
    )
    moved = [float(steps.edge_weights(definition, jnp.int32(step), 8)["frame->clip/up"]) for step in range(8)]
    assert moved == sorted(moved) and moved[0] < 0.2 and moved[-1] > 0.8


def test_a_weight_that_weighs_nothing_is_refused():
    weight = {"model.hierarchy": "frame-clip", "objective.edge_weights.clip.up": 0.5}
    with pytest.raises(
        steps.SettingsError, match="edge_weights.clip.up = 0.5 weighs nothing: the 3 edges .*set it to 1"
    ):
        small.define(**weight)
    side = {"model.hierarchy": "frame-clip", "objective.side": False, "objective.edge_weights.frame.side": 0.0}
    with pytest.raises(steps.SettingsError, match="the 2 edges of this config are frame->clip/up, clip->frame/down"):
        small.define(**side)
    small.define(**weight | {"model.hierarchy": "frame-clip-sequence"})


# Losses of the variance alone: of a prediction that never changes it is 25 * (1 - sqrt(1e-4)).
VARIANCE_ALONE = {
    "objective.distance": "vicreg",
    "objective.invariance_weight": 0.0,
    "objective.covariance_weight": 0.0,
    "objective.regularizer": "none",
}
WEIGHTS = {"patch->frame/up": 0.0, "frame->clip/up": 4.0, "clip->frame/down": 2.0}


@pytest.fixture(scope="module")
def unusual():
    """A step with accumulation, weights that move, and a loss whose value can be told by hand; and its first state."""
    fields = {"objective.weights_to_uniform": True, "optimizer.accumulation_steps": 2}
    for name, weight in WEIGHTS.items():
        fields[f"objective.edge_weights.{name.split('->')[0]}.{name.split('/')[1]}"] = weight
    definition = small.define(**HIERARCHY, **VARIANCE_ALONE, **fields)
    return definition, small.new_state(definition), small.train_step(definition)


def test_the_mean_ratio_is_of_the_loss_that_is_trained_on(unusual):
    definition, state, step = unusual
    _, metrics = step(state, small.batch_of(definition), KEY)
    # A down target above the lowest level counts in no variance, so the loss of a constant prediction is known.
    ratio = float(metrics["monitor/clip->frame/down/mean_ratio"])
    assert ratio == pytest.approx(float(metrics["train/clip->frame/down"]) / (25 * 0.99), rel=1e-4)


def test_a_collapsed_level_reads_as_such_although_its_norm_hides_it(unusual):
    definition, state, step = unusual
    scale = ("levels", "frame", "transformer", "norm", "scale")
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 0.02 * x if tuple(key.key for key in path) == scale else x, state.params
    )
    healthy, collapsed = (
        float(step(one, small.batch_of(definition), KEY)[1]["monitor/frame/std"])
        for one in (state, state.replace(params=params))
    )
    # After BatchNorm both would be about 1.
    assert healthy > 0.3 and collapsed == pytest.approx(0.02 * healthy, rel=1e-3)


def test_the_total_of_a_step_is_weighed_with_the_weights_of_that_step(unusual):
    definition, state, step = unusual
    _, metrics = step(state.replace(step=state.step + 2), small.batch_of(definition), KEY)
    expected = 0.0
    for edge in map(str, definition.hierarchy.edges):
        weight = WEIGHTS.get(edge, 1.0)
        expected += (weight + (1 - weight) * 2 / small.STEPS["num_steps"]) * float(metrics[f"train/{edge}"])
    assert float(metrics["train/total"]) == pytest.approx(expected, rel=1e-5)


def test_norms_between_two_updates_are_those_of_the_last(unusual):
    definition, state, step = unusual
    found = []
    for seed in range(4):
        state, metrics = step(state, small.batch_of(definition, seed), KEY)
        found.append({name: float(value) for name, value in metrics.items() if "_norm/" in name})
    assert len(found[0]) == 12 and set(found[0].values()) == {0.0}
    assert all(value > 0 for value in found[1].values())
    assert found[2] == found[1] and all(found[3][name] != found[2][name] for name in found[3])


def test_training_videos_are_normalised_without_augmentation_too():
    definition = small.define(**{"data.mean": (0.5, 0.4, 0.3), "data.std": (0.25, 0.5, 0.2)})
    video = small.batch_of(definition)["video"]
    expected = (video / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.25, 0.5, 0.2])
    np.testing.assert_allclose(steps.prepare_training(definition, KEY, video), expected, rtol=1e-4, atol=1e-4)


def test_scan_and_remat_of_the_config_reach_the_program():
    """They change no number (tests/nn/test_layers.py), so only the program can tell."""

    def program(**fields):
        depth = {"model.frame.depth": 3, "model.clip.depth": 3}
        definition = small.define(**{"model.hierarchy": "frame-clip"}, **depth, **fields)
        variables, batch = small.drawn_variables(definition), small.batch_of(definition)
        return str(small.loss_and_gradients(definition).trace(*variables, batch, KEY).jaxpr)

    scan, remat = re.compile(r"\bscan\["), re.compile(r"\b(checkpoint|remat2?)\[")  # its names in versions of JAX
    plain, other = program(), program(**{"model.frame.scan": True, "model.clip.remat": True})
    assert not scan.search(plain) and not remat.search(plain)
    assert scan.search(other) and remat.search(other)


def test_frozen_and_resting_labels_do_not_move(ordinary):
    definition, state, step = ordinary
    after, metrics = step(state, small.batch_of(definition), KEY)
    before, now = (small.named_leaves(s.params) for s in (state, after))
    moved = {name for name in now if (now[name] != before[name]).any()}
    frozen = {name for name in now if name.startswith("levels/clip/") and "/predictors/" not in name}
    assert frozen and not moved & frozen
    assert {"levels/clip/predictors/down/out/kernel", "stem/embedding/kernel"} <= moved
    assert float(metrics["gradient_norm/clip"]) > 0 and float(metrics["update_norm/clip"]) == 0
    assert optim.optimizer_statistics(after.opt_state)["clip"]["skipped"] == 0
