"""The optimizer per label: independence, NaN guard, turns, parity with torch's SGD by hand-computed numbers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from configs import default
from hvt_jax import settings as settings_lib
from hvt_jax.engine import optim, schedules
from hvt_jax.hierarchy import HIERARCHIES, Hierarchy
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.objectives.methods import METHODS
from tests import small

HIERARCHY = ("frame", "clip")
LABELS = ("frame", "frame/predictors", "clip", "clip/predictors")
BASE = dataclasses.replace(
    settings_lib.read_settings(default.get_config()).optimizer,
    name="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    momentum=0.8,
    clip_norm=0.0,
    predictors="with",
    schedule="constant",
    warmup_epochs=0.0,
)


def make_params(every_kind=False):
    """One matrix per label, and the stem; with `every_kind` also biases, norms, positions and codes."""
    rng = np.random.default_rng(0)
    shapes = {"stem": {"embedding": {"kernel": (6, 4)}}, "levels": {}}
    for level in HIERARCHY:
        shapes["levels"][level] = {"encoder": {"kernel": (4, 4)}, "predictors": {"up": {"kernel": (4, 5)}}}
        if every_kind:
            shapes["levels"][level]["encoder"]["bias"] = (4,)
            shapes["levels"][level]["positions"] = {"table": (3, 4)}
            shapes["levels"][level]["output_norm"] = {"scale": (4,)}
            shapes["levels"][level]["predictors"]["up"]["codes"] = {"member": {"table": (3, 4)}}
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in leaves]
    return jax.device_put(jax.tree.unflatten(structure, arrays))


def build(num_steps=1000, steps_per_epoch=10, groups=LABELS, **changes):
    return optim.build_optimizer(
        dataclasses.replace(BASE, **changes), groups, steps_per_epoch=steps_per_epoch, num_steps=num_steps
    )


@functools.cache
def jitted_step(tx):
    """One compilation for all runs of equal settings."""

    def step(gradient, params, opt_state):
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step)


def run(tx, gradients, params=None):
    """Apply a list of gradients; return the parameters and states after each, the initial ones first."""
    params = make_params() if params is None else params
    history = [(params, tx.init(params))]
    step = jitted_step(tx)
    before = step._cache_size()
    for gradient in gradients:
        history.append(step(gradient, *history[-1]))
    assert step._cache_size() <= before + 1, "the types of the state changed between two steps"
    return history


def part(tree, label):
    """The leaves of one label, concatenated."""
    pairs = zip(jax.tree.leaves(optim.parameter_labels(tree, LABELS)), jax.tree.leaves(tree), strict=True)
    return np.concatenate([np.ravel(leaf) for name, leaf in pairs if name == label])


def ones(value=1.0):
    return jax.device_put(jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), make_params()))


def with_label(tree, label, function):
    """`tree` with `function` applied to the leaves of one label."""
    labels = optim.parameter_labels(tree, LABELS)
    return jax.tree.map(lambda name, leaf: function(leaf) if name == label else leaf, labels, tree)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, twin)


def moved(history, label):
    """One letter a step: x where the label's parameters changed, - where they are bit-identical."""
    parts = [part(params, label) for params, _ in history]
    return "".join("-x"[bool((old != new).any())] for old, new in zip(parts, parts[1:], strict=False))


# Labels


@pytest.mark.parametrize("hierarchy", HIERARCHIES)
def test_labels_are_the_levels_of_the_paths(hierarchy):
    """The real model: every leaf's label equals the level its path names, and all labels occur."""
    config = default.get_config()
    config.model.hierarchy = "-".join(hierarchy)
    model = settings_lib.read_settings(config).model
    sizes = {"num_clips": 2 if "sequence" in hierarchy else 1, "frames_per_clip": 4, "patches_per_frame": 4}
    predicting = small.predicting(Hierarchy(hierarchy, **sizes))

    def params():
        return nnx.to_pure_dict(nnx.state(Pyramid(model, predicting, rngs=nnx.Rngs(0)), nnx.Param))

    groups = METHODS["local"].groups(hierarchy)
    labels = optim.parameter_labels(jax.eval_shape(params), groups)
    seen = set()
    for path, label in jax.tree_util.tree_flatten_with_path(labels)[0]:
        keys = [entry.key for entry in path]
        level = keys[1] if keys[0] == "levels" else hierarchy[0]
        assert label == (f"{level}/predictors" if "predictors" in keys else level), keys
        seen.add(label)
    assert seen == set(groups) and len(seen) == 2 * len(hierarchy)


def test_labels_name_what_they_do_not_cover():
    params = make_params()
    params["head"] = {"kernel": jnp.ones((2, 2))}
    params["levels"]["sequence"] = {"encoder": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(ValueError, match=r"2 parameters .* head/kernel, levels/sequence/encoder/kernel"):
        optim.parameter_labels(params, LABELS)
    params = make_params()
    del params["levels"]["clip"]["predictors"]
    with pytest.raises(ValueError, match="clip/predictors"):
        optim.parameter_labels(params, LABELS)


def test_label_norms_by_hand():
    params = make_params()
    norms = optim.label_norms(params, optim.parameter_labels(params, LABELS))
    assert set(norms) == set(LABELS)
    for label, norm in norms.items():
        np.testing.assert_allclose(norm, np.linalg.norm(part(params, label)), rtol=1e-6)


# Parity, modes, optimizers


def test_sgd_nesterov_is_torchs():
    """torch: d = g + wd p; b1 = d1, b = .8 b + d; p -= lr (d + .8 b). With g = 1 the steps are 1.8, 2.44, 2.952 lr."""
    start = part(make_params(), "clip")
    history = run(build(), [ones()] * 3)
    for steps, total in ((1, 1.8), (2, 1.8 + 2.44), (3, 1.8 + 2.44 + 2.952)):
        np.testing.assert_allclose(part(history[steps][0], "clip"), start - 0.1 * total, rtol=1e-5, atol=1e-6)
    # Weight decay enters the gradient, of biases and codes, too.
    params = make_params(every_kind=True)
    (before, _), (after, _) = run(build(weight_decay=0.5), [jax.tree.map(np.ones_like, params)], params)
    for old, new in zip(*map(jax.tree.leaves, jax.device_get((before, after))), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * 1.8 * (1 + 0.5 * old), rtol=1e-5, atol=1e-6)
    plain = part(run(build(nesterov=False), [ones()] * 2)[2][0], "clip")
    np.testing.assert_allclose(plain, start - 0.1 * (1 + 1.8), rtol=1e-5, atol=1e-6)


def test_predictor_modes():
    change = {}
    for mode in ("with", "rate", "own"):
        history = run(build(predictors=mode, predictor_rate_multiplier=3.0, predictor_name="adamw"), [ones(2.0)])
        change[mode] = {label: part(history[1][0], label) - part(history[0][0], label) for label in LABELS}
    for level in HIERARCHY:
        for mode in change:
            np.testing.assert_allclose(change[mode][level], -0.1 * 1.8 * 2, rtol=1e-5)
        np.testing.assert_allclose(change["with"][f"{level}/predictors"], -0.1 * 1.8 * 2, rtol=1e-5)
        np.testing.assert_allclose(change["rate"][f"{level}/predictors"], -0.3 * 1.8 * 2, rtol=1e-5)
        np.testing.assert_allclose(change["own"][f"{level}/predictors"], -0.3, rtol=1e-5)  # Adam's first step


@pytest.mark.parametrize(
    "name, rate, left",
    # LARS multiplies the rate of matrices by a thousandth of their norm.
    [("sgd", 0.02, 0.01), ("adamw", 0.05, 0.1), ("lars", 10.0, 0.1), ("lamb", 0.05, 0.1), ("adadelta", 20.0, 0.1)],
)
def test_every_optimizer_reduces_a_quadratic(name, rate, left):
    tx = build(name=name, learning_rate=rate, clip_norm=100.0, num_steps=80, schedule="cosine")
    params = make_params()
    target = jax.tree.map(lambda x: np.float32(0.3) * np.roll(x, 1) + np.float32(0.5), params)

    def loss(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True)

    @jax.jit
    def step(carry, _):
        params, opt_state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    _, losses = jax.lax.scan(step, (params, tx.init(params)), length=80)
    assert losses[1] < losses[0] and losses[-1] < left * losses[0], losses[::10]


@pytest.mark.parametrize("name", ["adamw", "lars", "lamb"])
def test_decay_spares_norms_biases_positions_and_codes(name):
    params = make_params(every_kind=True)
    # A level with scanned layers stacks its biases: two axes, still no matrix.
    params["levels"]["clip"]["encoder"]["bias"] = jnp.ones((2, 4))
    (_, _), (after, _) = run(build(name=name, weight_decay=0.5), [jax.tree.map(jnp.zeros_like, params)], params)
    for (path, old), new in zip(jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(after), strict=True):
        assert bool((old != new).any()) == (path[-1].key == "kernel"), path


def test_rates_follow_the_global_step_although_a_label_skips():
    """A skipped step must not shift the label's schedule: with momentum 0 the change is the rate itself."""
    bad = with_label(ones(), "clip", lambda x: jnp.full_like(x, jnp.nan))
    settings = {"schedule": "cosine", "momentum": 0.0, "nesterov": False, "predictors": "rate"}
    history = run(build(num_steps=6, **settings), [ones(), bad, bad, ones(), ones(), ones()])
    for index in (3, 4, 5):
        rates = schedules.learning_rates(
            dataclasses.replace(BASE, **settings), LABELS, index, steps_per_epoch=10, num_steps=6
        )
        for label in LABELS:
            change = part(history[index][0], label) - part(history[index + 1][0], label)
            np.testing.assert_allclose(change, rates[label], rtol=1e-3, atol=1e-6)


# Clipping and the guard


def test_an_exploding_level_does_not_shrink_another():
    gradients = with_label(ones(0.01), "clip", lambda x: x * 1e6)
    changes = {}
    for single in (False, True):
        history = run(build(clip_norm=1.0, momentum=0.0, single=single), [gradients])
        changes[single] = {label: part(history[0][0], label) - part(history[1][0], label) for label in LABELS}
    np.testing.assert_allclose(changes[False]["frame"], 0.1 * 0.01, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(changes[False]["clip"]), 0.1, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([*changes[True].values()])), 0.1, rtol=1e-3)
    assert np.linalg.norm(changes[True]["frame"]) < 1e-6


@pytest.mark.parametrize(
    "name, value",
    [(name, math.nan) for name in ("sgd", "adamw", "lars", "lamb", "adadelta")]
    + [("adamw", math.inf), ("adamw", -math.inf), ("adamw", 1e30)],
)
def test_a_bad_label_stays_and_the_others_do_not_notice(name, value):
    """One bad element (1e30: its square overflows) against a twin run in which all is well."""

    def spoil(leaf):
        return leaf.at[(0,) * leaf.ndim].set(value) if leaf.shape == (4, 4) else leaf

    tx = build(name=name, weight_decay=0.1, clip_norm=1.0)
    good, bad = run(tx, [ones(), ones()]), run(tx, [ones(), with_label(ones(), "clip", spoil)])
    (before, state_before), (after, state_after) = bad[1:]
    np.testing.assert_array_equal(part(before, "clip"), part(after, "clip"))
    assert_same(state_before.labels.inner_states["clip"], state_after.labels.inner_states["clip"])
    assert moved(good, "clip") == "xx"
    for label in ("frame", "frame/predictors", "clip/predictors"):
        np.testing.assert_array_equal(part(after, label), part(good[2][0], label))
        assert_same(state_after.labels.inner_states[label], good[2][1].labels.inner_states[label])


def test_a_finite_gradient_with_an_infinite_update_is_bad_too():
    tx = build(learning_rate=1e38, nesterov=False)
    history = run(tx, [with_label(ones(), "clip", lambda x: x * 1e10)])
    assert moved(history, "clip") == "-" and optim.optimizer_statistics(history[1][1])["clip"]["skipped"] == 1


def test_no_bad_update_gets_through_and_all_are_counted():
    bad = with_label(ones(), "frame/predictors", lambda x: x.at[0].set(jnp.nan))
    history = run(build(name="adamw"), [ones(), *[bad] * 7, ones(), bad])
    assert moved(history, "frame/predictors") == "x-------x-"
    assert moved(history, "frame") == moved(history, "clip") == "x" * 10
    counts = [optim.optimizer_statistics(opt_state) for _, opt_state in history]
    assert [int(count["frame/predictors"]["consecutive"]) for count in counts] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert [int(count["frame/predictors"]["skipped"]) for count in counts] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 8]
    # The longest row stays, for whoever looks after it has ended.
    assert [int(count["frame/predictors"]["longest"]) for count in counts] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert set(counts[-1]) == set(LABELS)
    assert all(int(counts[-1][label]["skipped"]) == 0 for label in LABELS if label != "frame/predictors")
    params, opt_state = history[-1]
    assert math.isnan(optim.update_norms(opt_state)["frame/predictors"]["gradient"])  # told as it was, used for nothing
    rest = (params, opt_state._replace(norms=()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rest))


def test_single_skips_everything_but_only_for_labels_that_move():
    bad = with_label(ones(), "clip", lambda x: x * jnp.nan)
    history = run(build(single=True, predictors="rate", clip_norm=1.0), [ones(), bad, ones()])
    assert all(moved(history, label) == "x-x" for label in LABELS)
    ratio = part(history[0][0], "frame/predictors") - part(history[1][0], "frame/predictors")
    np.testing.assert_allclose(
        ratio[0] / (part(history[0][0], "frame") - part(history[1][0], "frame"))[0], 3, rtol=1e-3
    )
    history = run(build(single=True, frozen=("clip",), clip_norm=1.0), [bad, bad])
    assert moved(history, "frame") == "xx" and moved(history, "clip") == "--"
    history = run(build(single=True, alternating_percent=50.0, steps_per_epoch=4, clip_norm=1.0), [bad] * 4)
    assert moved(history, "frame") == "xx--" and moved(history, "clip") == "----"
    huge = with_label(ones(1e-25), "clip", lambda x: x * 1e35)
    for single, expected in ((False, "x"), (True, "-")):
        history = run(build(single=single, learning_rate=1e30), [huge])
        assert moved(history, "frame") == expected and moved(history, "clip") == "-"


# Freezing, staged start, turns


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_labels_do_not_move_by_decay_and_hold_no_state(name):
    tx = build(name=name, weight_decay=0.5, frozen=("frame", "clip/predictors"), accumulation_steps=2)
    history = run(tx, [ones()] * 4)
    assert moved(history, "frame") == moved(history, "clip/predictors") == "----"
    assert moved(history, "clip") == moved(history, "frame/predictors") == "-x-x"
    arrays = [x for x in jax.tree.leaves(history[0][1]) if x.ndim]
    per_parameter = 2 if name == "sgd" else 3  # trace or two moments, and the accumulator
    trained = part(history[0][0], "clip").size + part(history[0][0], "frame/predictors").size
    assert sum(x.size for x in arrays) == per_parameter * trained


def test_turns_alternate_over_odd_numbers_and_epochs_and_keep_the_state_of_the_resting():
    """50 % of an epoch of 6 steps is 3 steps; 30 steps are 5 epochs and an even and an odd count of turns in each."""
    history = run(build(name="adamw", weight_decay=0.5, alternating_percent=50.0, steps_per_epoch=6), [ones()] * 30)
    assert moved(history, "frame") == moved(history, "frame/predictors") == "xxx---" * 5
    assert moved(history, "clip") == moved(history, "clip/predictors") == "---xxx" * 5
    odd = run(build(weight_decay=0.5, alternating_percent=100 / 3, steps_per_epoch=6), [ones()] * 18)
    assert moved(odd, "frame") == "xx--" * 4 + "xx" and moved(odd, "clip") == "--xx" * 4 + "--"
    for index, (old, new) in enumerate(zip(history, history[1:], strict=False)):
        resting = "clip" if index % 6 < 3 else "frame"
        assert_same(old[1].labels.inner_states[resting], new[1].labels.inner_states[resting])


def test_a_run_continued_from_its_state_is_the_uninterrupted_one():
    settings = {"name": "adamw", "alternating_percent": 50.0, "steps_per_epoch": 6, "schedule": "cosine"}
    gradients = [ones(k) for k in range(9)]
    history = run(build(num_steps=9, accumulation_steps=2, **settings), gradients)
    params, opt_state = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, history[5]))
    tx = build(num_steps=9, accumulation_steps=2, **settings)
    for gradient in gradients[5:]:
        params, opt_state = jitted_step(tx)(gradient, params, opt_state)
    assert_same((params, opt_state), history[-1])


def test_a_resting_label_counts_no_bad_gradient():
    bad = with_label(ones(), "clip", lambda x: x * jnp.inf)
    history = run(build(alternating_percent=50.0, steps_per_epoch=4), [bad] * 6)
    counts = [int(optim.optimizer_statistics(opt_state)["clip"]["consecutive"]) for _, opt_state in history]
    assert counts == [0, 0, 0, 1, 2, 2, 2] and moved(history, "frame") == "xx--xx"


def test_staged_start():
    start = settings_lib.LevelEpochs(patch=0.0, frame=0.0, clip=0.5, sequence=0.0)
    history = run(build(name="adamw", weight_decay=0.5, start_epochs=start, steps_per_epoch=8), [ones()] * 6)
    assert moved(history, "frame") == "xxxxxx"
    assert moved(history, "clip") == moved(history, "clip/predictors") == "----xx"
    assert_same(history[0][1].labels.inner_states["clip"], history[4][1].labels.inner_states["clip"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"frozen": ("frame/predictor",)},
            "names frame/predictor; the groups are frame, frame/predictors, clip, clip/predictors",
        ),
        ({"frozen": LABELS[::-1]}, r"optimizer.frozen names all 4 groups \(frame, .*nothing would train; leave"),
        ({"accumulation_steps": 9}, "optimizer.accumulation_steps = 9, but the run has 8 steps, .*use at most 8"),
        (
            {"start_epochs": 2.0},
            "start_epochs.clip = 2, but the last update .* at step 7, 1.75 epochs in, so clip would",
        ),
        ({"start_epochs": 1.5, "accumulation_steps": 3}, "start_epochs.clip = 1.5, but the last update .* at step 3"),
    ],
)
def test_what_could_never_train_is_refused_with_its_numbers(changes, words):
    if "start_epochs" in changes:
        changes |= {"start_epochs": settings_lib.LevelEpochs(0.0, 0.0, changes["start_epochs"], 9.0)}
    with pytest.raises(ValueError, match=words) as caught:
        build(num_steps=8, steps_per_epoch=4, **changes)
    assert "\n" not in str(caught.value)


def test_what_trains_a_little_is_not_refused():
    """The last label, the only update, the last step; and a level that the hierarchy has not may start when it will."""
    build(num_steps=8, steps_per_epoch=4, frozen=LABELS[1:])
    build(num_steps=8, accumulation_steps=8)
    start = settings_lib.LevelEpochs(patch=9.0, frame=0.0, clip=1.75, sequence=9.0)
    assert moved(run(build(num_steps=8, steps_per_epoch=4, start_epochs=start), [ones()] * 8), "clip") == "-------x"


# Accumulation and placement


def test_four_small_batches_are_one_large():
    gradients = [jax.tree.map(lambda x, k=k: np.sin((k + 1) * np.asarray(x)), make_params()) for k in range(8)]
    means = [jax.tree.map(lambda *parts: sum(parts) / 4, *gradients[k : k + 4]) for k in (0, 4)]
    settings = {"weight_decay": 0.1, "clip_norm": 3.0}
    norms = optim.label_norms(means[0], optim.parameter_labels(means[0], LABELS))
    assert min(norms.values()) < 3 < max(norms.values()), "some labels are to be clipped, some not"
    small, large = run(build(accumulation_steps=4, **settings), gradients), run(build(**settings), means)
    assert moved(small, "frame") == "---x---x"
    for label in LABELS:
        np.testing.assert_allclose(part(small[8][0], label), part(large[2][0], label), rtol=1e-5, atol=1e-6)


def test_norms_are_those_of_the_last_update_and_of_the_mean_that_was_clipped():
    """Two updates of two batches; the norms of an update stay until the next, whichever step is looked at."""
    norm = {label: np.sqrt(part(ones(), label).size) for label in LABELS}
    bad = with_label(ones(), "clip", lambda x: x * jnp.inf)
    settings = {"accumulation_steps": 2, "momentum": 0.0, "nesterov": False, "clip_norm": 1.0, "frozen": ("frame",)}
    history = run(build(**settings), [ones(1.0), ones(5.0), ones(2.0), bad])
    found = [optim.update_norms(opt_state) for _, opt_state in history]
    for label in ("frame/predictors", "clip", "clip/predictors"):
        gradients, updates = ([float(norms[label][kind]) for norms in found] for kind in ("gradient", "update"))
        assert gradients[:4] == pytest.approx([0, 0, 3 * norm[label], 3 * norm[label]])
        assert updates[:4] == pytest.approx([0, 0, 0.1, 0.1], rel=1e-4)
        assert (gradients[4], updates[4]) == (
            (math.inf, 0) if label == "clip" else pytest.approx((1.5 * norm[label], 0.1))
        )
    assert [float(norms["frame"]["update"]) for norms in found] == [0] * 5
    # With a joint clip every label still tells its own.
    joint = optim.update_norms(run(build(single=True, clip_norm=1.0), [ones(3.0)])[-1][1])
    for label in LABELS:
        assert float(joint[label]["gradient"]) == pytest.approx(3 * norm[label], rel=1e-5)


def test_one_bad_batch_spoils_its_update_only():
    bad = with_label(ones(), "clip", lambda x: x * jnp.nan)
    history = run(build(accumulation_steps=2), [bad, ones(), ones(), ones()])
    assert moved(history, "clip") == "---x" and moved(history, "frame") == "-x-x"
    assert int(optim.optimizer_statistics(history[-1][1])["clip"]["skipped"]) == 1


def test_sharded_is_the_same_as_on_one_device():
    """Parameters and state cut over 4 devices (FSDP), every feature on; SGD, since Adam amplifies rounding."""
    tx = build(clip_norm=1.0, weight_decay=0.1, accumulation_steps=2, alternating_percent=40.0)
    bad = with_label(ones(), "clip", lambda x: x * jnp.nan)
    gradients = [ones(), ones(), bad, ones(), ones(0.5), ones(2.0), bad, bad]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def place(x):
        axes = [None] * x.ndim
        if x.ndim and x.shape[-1] % 4 == 0:
            axes[-1] = "data"
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    params = jax.tree.map(place, make_params())
    opt_state = jax.tree.map(place, tx.init(params))

    shardings = jax.tree.map(lambda x: x.sharding, (params, opt_state))
    step = jax.jit(jitted_step(tx).__wrapped__, out_shardings=shardings, donate_argnums=(1, 2))
    for gradient in gradients:
        params, opt_state = step(jax.tree.map(place, gradient), params, opt_state)
    expected = run(tx, gradients)[-1]
    for leaf, twin in zip(jax.tree.leaves((params, opt_state)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, twin, rtol=1e-5, atol=1e-6)
    assert not params["levels"]["clip"]["encoder"]["kernel"].sharding.is_fully_replicated


def test_types_of_the_state_do_not_change_in_double_precision(x64):
    """float32 parameters while x64 is on: rates are float64 there and LARS keeps them in its momentum."""
    params = jax.tree.map(lambda x: x.astype(jnp.float32), make_params())
    gradients = jax.tree.map(jnp.ones_like, params)
    history = run(build(name="lars", accumulation_steps=2, schedule="step"), [gradients] * 3, params)
    assert all(new.dtype == old.dtype for old, new in zip(*map(jax.tree.leaves, (history[0], history[3])), strict=True))


def test_state_holds_arrays_only():
    """Orbax refuses Python scalars, and a weak type would compile the step twice."""
    leaves = jax.tree.leaves(build(name="adamw", accumulation_steps=2).init(make_params()))
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in leaves)
