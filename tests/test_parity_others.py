"""Parity with the original beyond its training step: losses, other methods, draws and curriculum.

float64 to the rounding of the files (1e-6 of the largest value), float32 within the original's own noise; every file
of a kind in both folders. Numbers that are not compared, and why: row 0 of the codes of distances, where the
original's index never points; the section `curriculum` of misc.json (there is no such command here).
The conv stem's gradients have a wider bound in float32, where a ReLU decides by the last bit
(`parity.follows_from_a_flip`). The other sections of misc.json are in the tests of schedules, sampling, transforms,
sweeps and import, knn.npz in that of kNN, the conv stem in test_parity_stem.py, S3D in
test_parity_s3d.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.engine import state as state_lib
from hvt_jax.interop import original, original_config
from hvt_jax.interop.grow import grow_variables
from hvt_jax.model.extended import make_mlp
from hvt_jax.objectives import distances, supervised, vicreg
from hvt_jax.objectives.draws import distance_code, side_log_probabilities
from hvt_jax.objectives.method import Inputs
from hvt_jax.objectives.methods import METHODS
from hvt_jax.settings.geometry import model_hierarchy
from tests import golden_files, parity
from tests.parity_case import close, load, quick_jit, under
from tests.small import predicting, small_settings

TOLERANCE = {"float64": 1e-6, "float32": 1e-5}  # of the largest value


def close_trees(tree, stored: dict[str, np.ndarray], available, tolerance: float, of_stem: float = 0.0) -> int:
    """Compare a tree of ours with arrays by the original's names; return how many were compared.

    Arrays of the conv stem may differ by `of_stem` if that is more.
    """
    largest = max(float(np.abs(value).max()) for value in stored.values())
    count = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = tuple(entry.key for entry in path)
        name = original.original_name(path, available)
        if name in stored:
            bound = max(tolerance, of_stem) if "backbone.net." in name else tolerance
            close(leaf, original.to_our_layout(path, stored[name]), bound, name, largest)
            count += 1
    return count


def _losses() -> list:
    """Return (file, shapes, name) of every loss of every file."""
    found = []
    for path in golden_files.of_kind("losses"):
        for key in sorted(key for key in load(path) if key.endswith("/loss")):
            shapes, name, _ = key.split("/")
            found.append(pytest.param(path, shapes, name, id=f"{golden_files.label(path)}-{shapes}-{name}"))
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("path", "shapes", "name"), _losses())
def test_losses_and_their_gradients(path, shapes, name, dtype):
    arrays = load(path)
    constants = json.loads(str(arrays["meta_json"]))["kwargs"][name]
    fields = {
        "distance": original_config.DISTANCES[name.partition("_")[0]],
        "prediction_temperature": constants.get("pred_temp", 1.0),
        "target_temperature": constants.get("tgt_temp", 0.5),
        "cross_entropy_epsilon": constants.get("eps", 1e-6),
        "cosine_scale": constants.get("mult", 1.0),
        "invariance_weight": float(constants.get("sim_coeff", 0)),
        "variance_weight": float(constants.get("std_coeff", 0)),
        "covariance_weight": float(constants.get("cov_coeff", 0)),
        "variance_epsilon": constants.get("eps", 1e-4),
    }
    settings = small_settings(**{f"objective.{field}": value for field, value in fields.items()}).objective
    kwargs = {"regularize_target": not constants.get("tgt_already_reg", False)}
    with jax.enable_x64(dtype == "float64"):
        target, prediction = (jnp.asarray(arrays[f"{shapes}/{side}"], dtype) for side in ("tgt", "pred"))
        rows = (lambda x: x[:, None]) if target.ndim == 2 else (lambda x: x)  # ours are [B, N, D] always

        def loss(target, prediction):
            return distances.distance(settings, rows(prediction), rows(target), None, **kwargs)

        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(target, prediction)
    tolerance = 1e-12 if dtype == "float64" else 1e-5  # stored in float64 here
    close(value, arrays[f"{shapes}/{name}/loss"], tolerance, "loss")
    for ours, side in zip(gradients, ("dtgt", "dpred"), strict=True):
        close(ours, arrays[f"{shapes}/{name}/{side}"], tolerance, side)


@golden_files.each("losses")
def test_every_number_of_the_losses_is_compared(path):
    arrays = load(path)
    compared = {key for key in arrays if key.count("/") == 2 and key.endswith(("/loss", "/dtgt", "/dpred"))}
    for shapes in {key.split("/")[0] for key in compared}:
        # No loss, and no part of ours: the monitor that the parity of a training step computes.
        close(parity.token_variance(arrays[f"{shapes}/pred"]), arrays[f"{shapes}/token_variance"], 1e-12, shapes)
        compared |= {f"{shapes}/{kind}" for kind in ("tgt", "pred", "token_variance")}
    assert compared == arrays.keys() - {"meta_json"}


class Model:
    """The original's whole model, as of the methods that train it end to end."""

    def __init__(self, config: dict, state: dict[str, np.ndarray], dtype: str):
        self.state = state
        overrides = original_config.settings_overrides(config, state) | {"model.compute_dtype": dtype}
        self.settings = original_config.model_settings(overrides)
        self.objective = small_settings(**{k: v for k, v in overrides.items() if "objective" in k}).objective
        sizes = {name: overrides[f"data.{name}"] for name in ("num_frames", "height", "width")}
        self.hierarchy = predicting(model_hierarchy(self.settings, **sizes), side=False)
        template = jax.eval_shape(lambda: state_lib.initial_variables(self.settings, self.hierarchy, key=0))
        template = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), template)
        self.graphdef = state_lib.graph_definition(self.settings, self.hierarchy)
        self.missing: list[str] = []
        *trees, self.unused = original.import_state_dict(*template, state, self.missing)
        self.params, self.stats = jax.tree.map(jnp.asarray, trees)

    def only_local_parts_are_missing(self) -> bool:
        return all("predictors" in path or "state_norm" in path for path in self.missing)


@parity.BOTH
@golden_files.each("siamese")
def test_vicreg_between_two_views(path, dtype):
    arrays = load(path)
    meta = json.loads(str(arrays["meta_json"]))
    # The gradient of a scale before BatchNorm nearly cancels, and its noise varies from machine to machine.
    tolerance = 1e-6 if dtype == "float64" else 30 * meta["noise_rel"]
    with jax.enable_x64(dtype == "float64"):
        state = original.without_prefixes(under(arrays, "param/"))
        model = Model(meta["config"], state, dtype)
        assert model.only_local_parts_are_missing()
        assert all(name.startswith("projector.") or name in parity.HEAD for name in model.unused)
        top = getattr(model.settings, model.hierarchy.levels[-1])
        options = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)}
        hidden, norm = top.predictor_hidden, top.predictor_hidden_norm
        projector = make_mlp(top.width, hidden, top.width, norm=norm, **options)
        head_graph, *head = nnx.split(projector, nnx.Param, nnx.BatchStat)
        used: set[str] = set()
        head = [original.import_tree({"projector": nnx.to_pure_dict(part)}, state, used) for part in head]
        head = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), head)
        views = tuple(jnp.asarray(arrays[f"video{view}_uint8"] / 255.0, dtype) for view in (1, 2))

        def loss(params):
            pyramid = state_lib.merge(model.graphdef, params["model"], model.stats)
            projector = nnx.merge(head_graph, params["projector"], head[1]["projector"], copy=True)
            result = vicreg.siamese_loss(pyramid, projector, views, model.objective, train=True)
            moved = nnx.to_pure_dict(nnx.state(projector, nnx.BatchStat))
            return result.total, {**state_lib.statistics(pyramid), "projector": moved}

        params = {"model": model.params, "projector": head[0]["projector"]}
        (total, stats), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(params)
    close(total, arrays["loss"], TOLERANCE[dtype], "loss")
    close(total, arrays["f32/loss"], 1e-5, "f32/loss")
    gradients = {**gradients["model"], "projector": gradients["projector"]}
    stored = original.without_prefixes(under(arrays, "grad/"))
    of_stem = 0.0 if dtype == "float64" else parity.FLIPPED_GRADIENT
    assert close_trees(gradients, stored, state, tolerance, of_stem) == len(stored)
    moved = {name.removeprefix("backbone."): value for name, value in under(arrays, "after/").items()}
    assert close_trees(stats, moved, state, tolerance) == len(moved)


def _supervised() -> list:
    """Return (file, kind) of every supervised model of every file."""
    return [
        pytest.param(path, kind, id=f"{golden_files.label(path)}-{kind}")
        for path in golden_files.of_kind("supervised")
        for kind in sorted(key.removesuffix("/config_json") for key in load(path) if key.endswith("/config_json"))
    ]


@parity.BOTH
@pytest.mark.parametrize(("path", "kind"), _supervised())
def test_supervised_through_the_whole_network(path, kind, dtype):
    arrays = load(path, f"{kind}/")
    state = under(arrays, "param/")
    with jax.enable_x64(dtype == "float64"):
        model = Model(json.loads(str(arrays["config_json"])), state, dtype)
        assert model.only_local_parts_are_missing() and set(model.unused) == parity.HEAD
        video = jnp.asarray(arrays["video_uint8"] / 255.0, dtype)
        head = {"kernel": state["mlp_head.weight"].T, "bias": state["mlp_head.bias"]}
        head = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), head)

        def loss(params, head):
            pyramid = state_lib.merge(model.graphdef, params, model.stats)
            classify = lambda token: token @ head["kernel"] + head["bias"]  # noqa: E731
            pyramid.head = classify
            inputs = Inputs(video, None, None, jnp.asarray(arrays["labels"]), None, {})
            losses, outputs, _ = METHODS["supervised"].losses(pyramid, inputs, None, key=None)
            return losses.total, supervised.log_probabilities(classify, outputs[model.hierarchy.levels[-1]])

        step = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, log_probs), (gradients, head_gradient) = step(model.params, head)
    close(value, arrays["loss"], TOLERANCE[dtype], "loss")
    close(log_probs, arrays["log_probs"], TOLERANCE[dtype], "log_probs")
    stored = under(arrays, "grad/")
    close(head_gradient["kernel"].T, stored["mlp_head.weight"], TOLERANCE[dtype], "head kernel")
    close(head_gradient["bias"], stored["mlp_head.bias"], TOLERANCE[dtype], "head bias")
    assert close_trees(gradients, stored, state, TOLERANCE[dtype]) == len(stored) - 2


@golden_files.each_misc_item("relative_position")
def test_distance_codes_are_the_original_ones_without_its_unused_row(key, golden):
    times, table = int(key), np.array(golden)
    source, target = np.meshgrid(np.arange(times), np.arange(times), indexing="ij")
    ours = np.asarray(distance_code(source, target, times))
    others = source != target
    np.testing.assert_array_equal(ours[others], table[others] - 1)
    assert set(ours[others]) == set(range(2 * times - 2))


@golden_files.each_misc_item("truncated_normal_histograms_4000")
def test_times_are_drawn_as_the_original_draws_them(key, golden):
    """Chi-square per position; together, a right table fails once in a thousand seeds of the original."""
    from scipy import stats

    counts = np.array(golden)
    times, divisor = (float(part[3:]) for part in key.split("_"))
    expected = 4000 * np.exp(side_log_probabilities(int(times), divisor))
    assert (counts[expected == 0] == 0).all()
    for source, (seen, wanted) in enumerate(zip(counts, expected, strict=True)):
        legal = wanted > 0
        score = stats.chisquare(seen[legal], wanted[legal])
        assert score.pvalue > 1e-3 / (12 + 12 + 3), f"position {source}: {score}"


@golden_files.each("curriculum")
def test_curriculum_grows_as_in_the_original(path):
    arrays = load(path)
    meta = json.loads(str(arrays["meta_json"]))
    state = under(arrays, "old/")
    trained = Model(meta["old_config"], state, "float32")
    assert trained.missing == [] and set(trained.unused) == parity.HEAD
    has_clips = "clip" in original_config.groups_of(meta["new_config"])
    clips = meta["new_config"]["arch"]["architecture_time"]["size_ratio"] if has_clips else 1
    overrides = original_config.settings_overrides(meta["new_config"], state, num_groups={"clips": clips})
    settings = original_config.model_settings(overrides)
    sizes = {name: overrides[f"data.{name}"] for name in ("num_frames", "height", "width")}
    hierarchy = predicting(model_hierarchy(settings, **sizes), side=False)
    fresh = jax.jit(lambda: state_lib.initial_variables(settings, hierarchy, key=1))()
    before, after = under(arrays, "new_before/"), under(arrays, "new_after/")
    names = [*meta["copied_from_old"], *meta["kept_new"], *after]

    def named(tree) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        paths = [(tuple(entry.key for entry in path), np.asarray(leaf)) for path, leaf in leaves]
        return {original.original_name(path, names): (path, leaf) for path, leaf in paths}

    def as_before(path, leaf):
        path = tuple(entry.key for entry in path)
        name = original.original_name(path, names)
        return original.to_our_layout(path, before[name]) if name in before else np.asarray(leaf)

    fresh = [jax.tree_util.tree_map_with_path(as_before, tree) for tree in fresh]
    *grown, report = grow_variables(trained.params, trained.stats, *fresh)
    ours = {**named(grown[0]), **named(grown[1])}
    kept = {**named(fresh[0]), **named(fresh[1])}
    copied = {original.original_name(tuple(path.split("/")), names) for path in report.copied}
    new = {original.original_name(tuple(path.split("/")), names) for path in report.new}
    assert copied == set(meta["copied_from_old"])
    assert new == set(meta["kept_new"]) - parity.HEAD  # the head belongs to the probe
    assert report.dropped == [] and len(report.grown) == len(after) > 0
    for name, (path, leaf) in ours.items():
        source = after if name in after else state
        wanted = original.to_our_layout(path, source[name]) if name not in new else kept[name][1]
        np.testing.assert_array_equal(leaf, wanted, err_msg=name)


def test_siamese_leaves_out_masked_videos():
    """The covariance divisor is that of the valid videos, not of the configured batch."""
    settings = small_settings().objective
    first, second = (jax.random.normal(jax.random.key(seed), (4, 1, 6)) for seed in (0, 1))
    valid = jnp.array([True, True, False, True])
    masked = distances.vicreg(settings, first.at[2].set(1e6), second, valid)
    kept = jnp.array([0, 1, 3])
    np.testing.assert_allclose(masked, distances.vicreg(settings, first[kept], second[kept], None), rtol=1e-6)


def test_supervised_leaves_out_masked_videos():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 5)))
    loss = supervised.negative_log_likelihood(log_probs, jnp.array([1, -1, 4]), jnp.array([True, False, True]))
    np.testing.assert_allclose(loss, -(log_probs[0, 1] + log_probs[2, 4]) / 2, rtol=1e-6)
