"""Parity with the original beyond its training step: losses, other methods, stem, draws and curriculum.

float64 to the rounding of the files (1e-6 of the largest value), float32 within the original's own noise.
Numbers that are not compared, and why: `*/token_variance` of losses.npz (a monitor that is blind to
collapse; ours differ on purpose); gradients of the conv stem in float32 (a ReLU decides by the last bit,
see test_parity.py); the row 0 of the original's distance codes, which it never uses.
"""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.engine import state as state_lib
from hvt_jax.interop import original, original_config
from hvt_jax.interop.grow import grow_variables
from hvt_jax.model.predictor import make_projector
from hvt_jax.model.pyramid import model_geometry
from hvt_jax.model.stem import ConvStem
from hvt_jax.objectives import siamese, supervised
from hvt_jax.objectives.distances import distance, vicreg
from hvt_jax.objectives.draws import distance_code, side_log_probabilities
from tests import parity
from tests.small import small_settings

BOTH = pytest.mark.parametrize("dtype", ["float64", "float32"])
TOLERANCE = {"float64": 1e-6, "float32": 1e-5}  # of the largest value


def load(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    with np.load(parity.GOLDENS / name, allow_pickle=False) as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def close(ours, theirs, tolerance: float, label: str, largest: float = 0.0) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, label
    scale = np.abs(theirs).max()
    # A bias before BatchNorm has a gradient of zero; both hold rounding noise, small beside the others.
    scale = largest if scale < 1e-7 * largest else scale
    error = np.abs(ours - theirs).max() / scale
    assert error <= tolerance, f"{label}: error {error:.1e}"


def close_trees(tree, stored: dict[str, np.ndarray], available, tolerance: float, skip: str = "\0") -> int:
    """Compare a tree of ours with arrays by the original's names; return how many were compared."""
    largest = max(float(np.abs(value).max()) for value in stored.values())
    count = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = tuple(entry.key for entry in path)
        name = original.original_name(path, available)
        if name in stored and skip not in name:
            close(leaf, original.to_our_layout(path, stored[name]), tolerance, name, largest)
            count += 1
    return count


@BOTH
@pytest.mark.parametrize("shapes", ["same3", "bcast", "two"])
@pytest.mark.parametrize("name", ["MSE", "CE", "CS", "VICREG", "VICREG_tgt_already_reg"])
def test_losses_and_their_gradients(name, shapes, dtype):
    arrays = load("losses.npz")
    constants = json.loads(str(arrays["meta_json"]))["kwargs"][name]
    fields = {
        "distance": original_config.DISTANCES[name.removesuffix("_tgt_already_reg")],
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
            return distance(settings, rows(prediction), rows(target), None, **kwargs)

        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(target, prediction)
    tolerance = 1e-12 if dtype == "float64" else 1e-5  # stored in float64 here
    close(value, arrays[f"{shapes}/{name}/loss"], tolerance, "loss")
    for ours, side in zip(gradients, ("dtgt", "dpred"), strict=True):
        close(ours, arrays[f"{shapes}/{name}/{side}"], tolerance, side)


class Model:
    """The original's whole model, as of the methods that train it end to end."""

    def __init__(self, config: dict, state: dict[str, np.ndarray], dtype: str):
        self.state = state
        overrides = original_config.settings_overrides(config, state) | {"model.compute_dtype": dtype}
        self.settings = original_config.model_settings(overrides)
        self.objective = small_settings(**{k: v for k, v in overrides.items() if "objective" in k}).objective
        sizes = {name: overrides[f"data.{name}"] for name in ("num_frames", "height", "width")}
        self.geometry = model_geometry(self.settings, **sizes)
        template = jax.eval_shape(lambda: state_lib.initial_variables(self.settings, self.geometry, side=False, key=0))
        template = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), template)
        self.graphdef = state_lib.graph_definition(self.settings, self.geometry, side=False)
        self.missing: list[str] = []
        *trees, self.unused = original.import_state_dict(*template, state, self.missing)
        self.params, self.stats = jax.tree.map(jnp.asarray, trees)

    def only_local_parts_are_missing(self) -> bool:
        return all("predictors" in path or "state_norm" in path for path in self.missing)


@BOTH
def test_vicreg_between_two_views(dtype):
    arrays = load("vicreg_siamese.npz")
    meta = json.loads(str(arrays["meta_json"]))
    # The gradient of a scale before BatchNorm nearly cancels, and its noise varies from machine to machine.
    tolerance = 1e-6 if dtype == "float64" else 30 * meta["noise_rel"]
    with jax.enable_x64(dtype == "float64"):
        state = original.without_prefixes(under(arrays, "param/"))
        model = Model(meta["config"], state, dtype)
        assert model.only_local_parts_are_missing()
        assert all(name.startswith("projector.") or name in parity.HEAD for name in model.unused)
        width = model.settings.clip.width
        options = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)}
        projector = make_projector(model.settings.clip, width, **options)
        head_graph, *head = nnx.split(projector, nnx.Param, nnx.BatchStat)
        used: set[str] = set()
        head = [original.import_tree({"projector": nnx.to_pure_dict(part)}, state, used) for part in head]
        head = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), head)
        views = tuple(jnp.asarray(arrays[f"video{view}_uint8"] / 255.0, dtype) for view in (1, 2))

        def loss(params):
            pyramid = state_lib.merge(model.graphdef, params["model"], model.stats)
            projector = nnx.merge(head_graph, params["projector"], head[1]["projector"], copy=True)
            result = siamese.siamese_loss(pyramid, projector, views, model.objective, train=True)
            moved = nnx.to_pure_dict(nnx.state(projector, nnx.BatchStat))
            return result.total, {**state_lib.statistics(pyramid), "projector": moved}

        params = {"model": model.params, "projector": head[0]["projector"]}
        (total, stats), gradients = parity.quick_jit(jax.value_and_grad(loss, has_aux=True))(params)
    close(total, arrays["loss"], tolerance, "loss")
    gradients = {**gradients["model"], "projector": gradients["projector"]}
    stored = original.without_prefixes(under(arrays, "grad/"))
    skip = "\0" if dtype == "float64" else "backbone.net"
    compared = close_trees(gradients, stored, state, tolerance, skip)
    assert compared == sum(skip not in name for name in stored)
    moved = {name.removeprefix("backbone."): value for name, value in under(arrays, "after/").items()}
    assert close_trees(stats, moved, state, tolerance) == len(moved)


@BOTH
@pytest.mark.parametrize("kind", ["noncausal", "causal"])
def test_supervised_through_the_whole_network(kind, dtype):
    arrays = load("cls_supervised.npz", f"{kind}/")
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
            log_probs = supervised.log_probabilities(pyramid, classify, video, train=True)
            return supervised.negative_log_likelihood(log_probs, jnp.asarray(arrays["labels"])), log_probs

        step = parity.quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, log_probs), (gradients, head_gradient) = step(model.params, head)
    close(value, arrays["loss"], TOLERANCE[dtype], "loss")
    close(log_probs, arrays["log_probs"], TOLERANCE[dtype], "log_probs")
    stored = under(arrays, "grad/")
    close(head_gradient["kernel"].T, stored["mlp_head.weight"], TOLERANCE[dtype], "head kernel")
    close(head_gradient["bias"], stored["mlp_head.bias"], TOLERANCE[dtype], "head bias")
    assert close_trees(gradients, stored, state, TOLERANCE[dtype]) == len(stored) - 2


def det(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array that the goldens' README fills the tensor `name` with."""
    drawn = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    if name.endswith("running_var"):
        drawn = 1 + 0.1 * np.abs(drawn)
    elif name.endswith(("running_mean", ".bias")):
        drawn = 0.1 * drawn
    elif len(shape) == 1:
        drawn = 1 + 0.1 * drawn
    else:
        drawn = drawn * np.sqrt(2 / np.prod(shape[1:]))
    return drawn.astype(np.float32)


def _stem_fill(path: tuple, leaf, dtype: str) -> np.ndarray:
    path = ("stem", "convolutions", *(entry.key for entry in path))
    shape = leaf.shape
    if path[-1] == "kernel":
        size, _, channels_in, channels = leaf.shape
        shape = (channels, channels_in, *((size, 1, 1) if path[-2] == "time" else (1, size, size)))
    name = original.original_name(path, ()).removeprefix("backbone.")
    return jnp.asarray(original.to_our_layout(path, det(name, shape)), dtype)


@BOTH
def test_conv_stem(dtype):
    arrays = load("s3d_stem.npz")
    with jax.enable_x64(dtype == "float64"):
        video = jnp.asarray(arrays["video_uint8_bcthw"].transpose(0, 2, 3, 4, 1) / 255.0, dtype)
        stem = ConvStem(64, 16, momentum=0.999, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
        graph, *parts = nnx.split(stem, nnx.Param, nnx.BatchStat)
        parts = [nnx.to_pure_dict(part) for part in parts]
        params, stats = jax.tree_util.tree_map_with_path(lambda path, leaf: _stem_fill(path[1:], leaf, dtype), parts)
        weights = np.random.RandomState(7).standard_normal(arrays["train/out"].shape).transpose(0, 2, 3, 4, 1)
        compare_gradients = dtype == "float64"  # one ReLU may flip in float32

        def run(train):
            def objective(params, video):
                out = nnx.merge(graph, params, stats, copy=True)(video, train=train, valid=None)
                return (out * weights.astype(dtype)).sum(), out

            return parity.quick_jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, video)

        for mode, train in (("eval", False), ("train", True)):
            (_, out), (gradients, d_video) = run(train)
            close(out.transpose(0, 4, 1, 2, 3), arrays[f"{mode}/out"], TOLERANCE[dtype], f"{mode}/out")
            if compare_gradients:
                _check_stem_gradients(gradients, under(arrays, f"{mode}/"))
        if compare_gradients:
            close(d_video[:1].transpose(0, 4, 1, 2, 3), arrays["train/dx"], 1e-6, "dx")


def _check_stem_gradients(gradients, stored) -> None:
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        path = ("stem", "convolutions", *(entry.key for entry in path))
        named[original.original_name(path, ()).removeprefix("backbone.")] = path, np.asarray(leaf)
    whole, norms = under(stored, "grad/"), under(stored, "grad_l2/")
    assert named.keys() == whole.keys() | norms.keys()
    for name, (path, leaf) in named.items():
        if name in norms:
            np.testing.assert_allclose(np.linalg.norm(leaf), norms[name], rtol=1e-9, err_msg=name)
        else:
            close(leaf, original.to_our_layout(path, whole[name]), 1e-6, name)


def misc() -> dict:
    return json.loads((parity.GOLDENS / "misc.json").read_text())


@pytest.mark.parametrize("times", [2, 3, 5])
def test_distance_codes_are_the_original_ones_without_its_unused_row(times):
    table = np.array(misc()["relative_position"][str(times)])
    source, target = np.meshgrid(np.arange(times), np.arange(times), indexing="ij")
    ours = np.asarray(distance_code(source, target, times))
    others = source != target
    np.testing.assert_array_equal(ours[others], table[others] - 1)
    assert set(ours[others]) == set(range(2 * times - 2))


@pytest.mark.parametrize("name", ["tot12_div3", "tot12_div0.5", "tot3_div3"])
def test_times_are_drawn_as_the_original_draws_them(name):
    """Chi-square per position; together, a right table fails once in a thousand seeds of the original."""
    from scipy import stats

    counts = np.array(misc()["truncated_normal_histograms_4000"][name])
    times, divisor = (float(part[3:]) for part in name.split("_"))
    expected = 4000 * np.exp(side_log_probabilities(int(times), divisor))
    assert (counts[expected == 0] == 0).all()
    for source, (seen, wanted) in enumerate(zip(counts, expected, strict=True)):
        legal = wanted > 0
        score = stats.chisquare(seen[legal], wanted[legal])
        assert score.pvalue > 1e-3 / (12 + 12 + 3), f"position {source}: {score}"


def test_curriculum_grows_as_in_the_original():
    arrays = load("curriculum_load.npz")
    meta = json.loads(str(arrays["meta_json"]))
    state = under(arrays, "old/")
    trained = Model(meta["old_config"], state, "float32")
    assert trained.missing == [] and set(trained.unused) == parity.HEAD
    overrides = original_config.settings_overrides(meta["new_config"], state, num_groups={"clips": 2})
    settings = original_config.model_settings(overrides)
    sizes = {name: overrides[f"data.{name}"] for name in ("num_frames", "height", "width")}
    fresh = jax.jit(
        lambda: state_lib.initial_variables(settings, model_geometry(settings, **sizes), side=False, key=1)
    )()
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
    assert new == set(meta["kept_new"]) - {"mlp_head.weight", "mlp_head.bias"}  # the head belongs to the probe
    assert report.dropped == [] and len(report.grown) == len(after) == 2
    for name, (path, leaf) in ours.items():
        source = after if name in after else state
        wanted = original.to_our_layout(path, source[name]) if name not in new else kept[name][1]
        np.testing.assert_array_equal(leaf, wanted, err_msg=name)


def test_siamese_leaves_out_masked_videos():
    """The covariance divisor is that of the valid videos, not of the configured batch."""
    settings = small_settings().objective
    first, second = (jax.random.normal(jax.random.key(seed), (4, 1, 6)) for seed in (0, 1))
    valid = jnp.array([True, True, False, True])
    masked = vicreg(settings, first.at[2].set(1e6), second, valid)
    kept = jnp.array([0, 1, 3])
    np.testing.assert_allclose(masked, vicreg(settings, first[kept], second[kept], None), rtol=1e-6)


def test_supervised_leaves_out_masked_videos():
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 5)))
    loss = supervised.negative_log_likelihood(log_probs, jnp.array([1, -1, 4]), jnp.array([True, False, True]))
    np.testing.assert_allclose(loss, -(log_probs[0, 1] + log_probs[2, 4]) / 2, rtol=1e-6)
