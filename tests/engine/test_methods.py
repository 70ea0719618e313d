"""What the methods beside `local` train: a head by labels, and levels without borders between them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hvt_jax.engine import isolation, schedules, steps
from hvt_jax.engine import state as state_lib
from hvt_jax.engine.groups import parameter_labels
from hvt_jax.hierarchy import HIERARCHIES
from hvt_jax.model.level import LevelOutput
from hvt_jax.objectives import supervised
from hvt_jax.objectives.methods import METHODS
from hvt_jax.run import describe
from hvt_jax.settings import Settings, SettingsError
from tests import small

KEY = jax.random.key(3)
FRAME_CLIP = {"model.hierarchy": "frame-clip"}
SUPERVISED = FRAME_CLIP | {"method": "supervised"}
CHOOSING = {"objective.distance": "contrastive", "objective.batch_candidates_weight": 0.5}


def test_every_method_of_the_settings_has_its_line_in_the_table():
    (methods,) = [field.type for field in dataclasses.fields(Settings) if field.name == "method"]
    assert set(methods.__args__) == set(METHODS)
    with pytest.raises(
        SettingsError, match="'supervise', but must be one of local, joint, supervised, .*; did you mean"
    ):
        small.small_settings(method="supervise")


# The model of joint is that of local; the others put something on top, whatever lies below.
_MODELS = [(name, levels) for name in ("local", "supervised") for levels in HIERARCHIES]
_MODELS += [(name, HIERARCHIES[1]) for name in sorted(set(METHODS) - {"local", "joint", "supervised"})]


@pytest.mark.parametrize(("name", "levels"), _MODELS)
def test_groups_cover_every_parameter_of_every_hierarchy(name, levels):
    definition = small.define(**{"method": name, "model.hierarchy": "-".join(levels)})
    params, _ = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    labels = set(jax.tree.leaves(parameter_labels(params, definition.groups)))
    assert labels == set(definition.groups)
    assert set(definition.method.owners(levels)) <= labels
    if name != "local":
        assert labels > set(levels) and definition.hierarchy.edges == ()
    if name == "supervised":
        assert labels == {*levels, "head"}


@pytest.fixture(scope="module")
def learner():
    """A step that can learn its batch: a constant rate, no decay; causal clips; and its first state."""
    fields = {"model.clip.causal": True, "optimizer.schedule": "constant", "optimizer.learning_rate": 1e-2}
    definition = small.define(**SUPERVISED, **fields, **{"optimizer.max_bad_updates": 2, "logging.interval_steps": 100})
    return definition, small.new_state(definition), small.train_step(definition)


def test_it_learns_one_batch_by_heart(learner):
    definition, state, step = learner
    batch, losses = small.batch_of(definition), []
    for _ in range(40):
        state, metrics = step(state, batch, KEY)
        losses.append(float(metrics["train/total"]))
    assert abs(losses[0] - math.log(small.NUM_CLASSES)) < 1.0
    assert losses[-1] < 0.05 and float(metrics["train/top1"]) == 100.0
    names = {"train/total", "train/top1", "data/valid_share", "longest_bad_row", "alarms/rollbacks"}
    names |= {f"{kind}_norm/{group}" for kind in ("gradient", "update") for group in ("frame", "clip", "head")}
    names |= {f"{kind}_updates/{group}" for kind in ("skipped", "consecutive") for group in ("frame", "clip", "head")}
    assert {name for name in metrics if not name.startswith("monitor/")} == names
    # The class that is named in evaluation is the head's, on the tokens it was trained on; running statistics suffice.
    found = jax.jit(steps.build_encode(definition))(state.params, state.stats, batch["video"])
    assert found.keys() == {"frame", "clip", "head"}
    np.testing.assert_array_equal(found["head"], batch["label"])
    data = definition.settings.data
    video = (batch["video"] / 255 - np.array(data.mean)) / np.array(data.std)

    @jax.jit
    def tokens(params, stats, video):
        model = state_lib.merge(definition.graphdef, params, stats)
        return supervised.encode(model, video, train=False)["clip"].tokens[:, 0]

    expected = tokens(state.params, state.stats, video.astype(np.float32))
    np.testing.assert_allclose(found["clip"], expected, rtol=1e-3, atol=1e-4)


def test_what_has_no_label_or_cannot_be_read_does_not_count(learner):
    definition, state, step = learner
    batch = small.batch_of(definition)
    valid, label = np.array([True, False, True, True]), np.array([0, -1, 2, 0], np.int32)
    masked = batch | {"valid": valid, "label": label}
    garbage = masked | {"video": batch["video"].copy(), "label": np.array([0, 7, 2, 0], np.int32)}
    garbage["video"][1] = 255 - garbage["video"][1]
    one, other = (step(state, each, KEY) for each in (masked, garbage))
    assert small.largest_difference(one[0].params, other[0].params) == 0.0
    assert float(one[1]["train/total"]) == float(other[1]["train/total"]) > 0
    # A video that can be read but has no label adds to the statistics alone.
    unlabelled, _ = step(state, batch | {"label": label}, KEY)
    assert small.largest_difference(one[0].params, unlabelled.params) > 0
    nothing, metrics = step(state, batch | {"label": np.full(small.BATCH, -1, np.int32)}, KEY)
    assert float(metrics["train/total"]) == float(metrics["train/top1"]) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in small.named_leaves(nothing.params).values())


def test_a_nan_in_the_head_is_held_back_in_every_group_it_reaches(learner):
    definition, state, step = learner
    params = jax.tree.map(lambda x: x, state.params)
    params["head"]["bias"] = params["head"]["bias"].at[0].set(jnp.nan)
    after, metrics = step(state.replace(params=params), small.batch_of(definition), KEY)
    for group in definition.groups:
        assert int(metrics[f"skipped_updates/{group}"]) == 1 and float(metrics[f"update_norm/{group}"]) == 0.0
    assert sum(np.isnan(leaf).sum() for leaf in small.named_leaves(after.params).values()) == 1


def test_of_several_tokens_the_head_sees_the_mean():
    tokens = jax.random.normal(KEY, (2, 5, 3))
    seen = supervised.log_probabilities(lambda x: 2 * x, LevelOutput(tokens, tokens, None))
    np.testing.assert_allclose(seen, jax.nn.log_softmax(2 * tokens.mean(1)), rtol=1e-5)


def test_the_head_begins_within_the_bounds_of_torch(learner):
    definition, state, _ = learner
    bound = definition.settings.model.clip.width**-0.5
    for leaf in state.params["head"].values():
        assert 0.5 * bound < np.abs(leaf).max() <= bound and leaf.dtype == np.float32


def test_a_head_moves_unless_it_is_frozen():
    settings, groups = small.small_settings().optimizer, METHODS["supervised"].groups(("frame", "clip"))
    start = dataclasses.replace(settings.start_epochs, clip=1.0)
    staged = dataclasses.replace(settings, start_epochs=start, alternating_percent=25.0)
    moves = [schedules.moving_labels(staged, groups, step, steps_per_epoch=4) for step in range(6)]
    assert ["".join("-x"[move[group]] for move in moves) for group in groups] == ["x-x-x-", "-----x", "xxxxxx"]
    frozen = dataclasses.replace(settings, frozen=("head",))
    assert schedules.moving_labels(frozen, groups, 3, steps_per_epoch=4) == {"frame": True, "clip": True, "head": False}
    rates = schedules.learning_rates(settings, groups, 3, steps_per_epoch=4, num_steps=8)
    assert rates["head"] == rates["clip"] > 0


def test_without_borders_losses_reach_the_levels_below_and_only_those():
    hierarchy = {"model.hierarchy": "patch-frame-clip", **CHOOSING}
    joint = small.define(**hierarchy, method="joint")
    below = [("frame", "patch"), ("clip", "patch"), ("clip", "frame")]
    assert isolation.open_paths(joint, small.BATCH) == below
    local = small.define(**hierarchy)
    assert joint.groups == local.groups and joint.hierarchy == local.hierarchy


def test_joint_has_the_losses_of_local_and_the_top_level_its_gradients():
    local, joint = (small.define(**FRAME_CLIP, **CHOOSING, method=name) for name in ("local", "joint"))
    state, batch = small.new_state(local), small.batch_of(local)
    variables = state.params, state.stats
    (one, aux_of_one), alone = small.loss_and_gradients(local)(*variables, batch, KEY)
    (two, aux_of_two), together = small.loss_and_gradients(joint)(*variables, batch, KEY)
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    losses = [definition.method.metrics(aux[0]) for definition, aux in ((local, aux_of_one), (joint, aux_of_two))]
    assert losses[0].keys() == losses[1].keys() >= {f"train/{edge}" for edge in local.hierarchy.edges}
    for name, loss in losses[0].items():
        assert float(loss) == pytest.approx(float(losses[1][name]), rel=1e-6) and float(loss) > 0
    for part in (lambda g: g["levels"]["clip"], lambda g: g["levels"]["frame"]["predictors"]):
        assert small.largest_difference(part(alone), part(together)) < 1e-5
    assert small.largest_difference(alone["stem"], together["stem"]) > 1e-3
    # On four devices, which share the candidates, it has the gradients that it has on one.
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    params, stats = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    shared = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    (of_four, _), gradients = small.loss_and_gradients(joint)(params, stats, shared, KEY)
    assert float(of_four) == pytest.approx(float(two), rel=1e-6)
    assert small.largest_difference(gradients, together) < 1e-5


@pytest.mark.parametrize(("method", "moved"), [("joint", ["frame"]), ("supervised", ["frame", "clip"])])
def test_the_audit_says_that_borders_are_crossed_by_design(method, moved):
    definition = small.define(**FRAME_CLIP, method=method)
    text, count = isolation.examine(definition, small.BATCH)
    owner, lines = {"joint": "clip", "supervised": "head"}[method], text.splitlines()
    crossed = [line.split(" (")[0] for line in lines if line.startswith("crossed by design: ")]
    assert crossed == [f"crossed by design: the losses of {owner} move {level}" for level in moved]
    assert count == 0 and "leak" not in text
    assert lines[-1].startswith(f"gradients cross borders by design: method {method} ")


def test_an_attached_target_leaks_in_joint_where_nothing_is_meant_to_go(monkeypatch):
    definition = small.define(**FRAME_CLIP, **{"objective.targets": "attached"}, method="joint")
    monkeypatch.setattr(isolation, "audit", lambda *_: {"frame": {"frame": 1.0, "clip": 0.0}})
    text, count = isolation.examine(definition, small.BATCH)
    assert count == 1 and text.endswith("1 leaks")
    assert "open: a path of the program leads from the losses of frame to clip" in text


def test_a_description_says_what_is_trained(monkeypatch):
    monkeypatch.setattr(describe, "count_flops", lambda _: (0.0, 0.0))
    texts = {name: describe.describe(small.define(**FRAME_CLIP, method=name)) for name in METHODS}
    for name, text in texts.items():
        assert sum(line.startswith(f"method    {name}: ") for line in text.splitlines()) == 1
        assert ("edges     frame->clip/up" in text) == (name in ("local", "joint"))
        assert "the data say" not in text
    assert f"parameters, {11 * small.NUM_CLASSES} of them in the head" in texts["supervised"]
    settings = small.small_settings(**SUPERVISED)
    assert "and those of the head: the data say how many classes" in describe.describe(steps.define(settings))
    with pytest.raises(SettingsError, match=r"edge_weights.clip.up = 0.5 weighs nothing"):
        small.define(**FRAME_CLIP, **{"objective.edge_weights.clip.up": 0.5}, method="joint")
    small.define(**SUPERVISED, **{"objective.edge_weights.clip.up": 0.5})


def test_the_work_of_a_supervised_step_is_counted():
    forward, training = describe.count_flops(small.define(**SUPERVISED))
    assert 0 < forward < training
