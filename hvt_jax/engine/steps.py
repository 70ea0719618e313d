"""The compiled functions of a run: initialise, train one step, encode for evaluation.

Pure functions over a plain `TrainState`; everything static is in a `Definition`, and what a method of training decides
is asked of `Definition.method`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine import augmentation, schedules, step_metrics
from hvt_jax.engine import state as state_lib
from hvt_jax.engine.state import TrainState
from hvt_jax.engine.step_metrics import StepOutputs
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.objectives import local, methods
from hvt_jax.objectives.method import Inputs, Method
from hvt_jax.settings import Settings, SettingsError
from hvt_jax.settings.geometry import model_hierarchy

HEAD = "head"  # among the features of a video: the class that the model names
ROLLBACKS = "alarms/rollbacks"  # metric: how often an alarm sent the run back


@dataclasses.dataclass(frozen=True)
class Definition:
    """What is static about a run.

    Attributes:
      settings: the whole config.
      hierarchy: levels, sizes and predictions; no predictions if the method has none.
      graphdef: the model without its arrays.
      num_classes: of the label set that a method which wants labels is trained on; 0 where nobody knows it yet.
    """

    settings: Settings
    hierarchy: Hierarchy
    graphdef: state_lib.GraphDef
    num_classes: int

    @property
    def method(self) -> Method:
        """What is trained, and by what."""
        return methods.METHODS[self.settings.method]

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups: what the optimizer moves, clips and guards apart."""
        return methods.parameter_groups(self.settings)


def define(settings: Settings, num_classes: int = 0) -> Definition:
    """Return the static parts of a run; `num_classes` as in `Definition`.

    Raises:
      SettingsError: for sizes that are impossible, or the weight of an edge that it does not have.
    """
    data, model, method = settings.data, settings.model, methods.METHODS[settings.method]
    if model.compute_dtype == "float64" and not jax.config.jax_enable_x64:
        raise SettingsError("model.compute_dtype = float64 needs the environment variable JAX_ENABLE_X64=1")
    hierarchy = model_hierarchy(model, num_frames=data.num_frames, height=data.height, width=data.width)
    hierarchy = method.predictions(settings, hierarchy)
    graphdef = state_lib.graph_of(functools.partial(method.build_model, settings, hierarchy, num_classes))
    return Definition(settings, hierarchy, graphdef, num_classes)


def initial_variables(definition: Definition, key: jax.Array | int) -> tuple[state_lib.Tree, state_lib.Tree]:
    """Return fresh (parameters, statistics) of a run's model; pure."""
    sizes = definition.settings, definition.hierarchy, definition.num_classes
    return state_lib.variables_of(functools.partial(definition.method.build_model, *sizes), key)


def build_initialise(
    definition: Definition, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """Return `initialise(key)`, pure, so that it can be compiled into sharded outputs."""

    def initialise(key: jax.Array) -> TrainState:
        params, stats = initial_variables(definition, key)
        none = jnp.zeros((), jnp.int32)
        return TrainState(none, none, params, stats, optimizer.init(params), initial_memory(definition, params))

    return initialise


def initial_memory(definition: Definition, params: state_lib.Tree) -> state_lib.Tree:
    """Return what the method keeps beside parameters and statistics, before the first step."""
    return definition.method.initial_memory(definition.settings, params)


def build_train_step(
    definition: Definition, optimizer: optax.GradientTransformation, *, num_steps: int
) -> Callable[[TrainState, dict, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `train_step(state, batch, key) -> (state, metrics)`.

    All randomness is a function of `key`, `state.step` and `state.rollbacks`. `batch` holds `video` uint8
    [B, T, Y', X', 3], or the views that the method wants (`pipeline`), `valid` bool [B] and what else `batch_fields`
    names, such as `frame_valid` bool [B, T]; videos and frames that are not valid count in no loss, and are nobody's
    candidates; the statistics of norms leave out videos only.
    Metrics are device scalars; `monitor/...` are computed in steps that are logged
    (`schedules.is_logged`) and 0 in the others, norms are those of the last update (`optim.update_norms`).
    """
    settings = definition.settings

    def train_step(state: TrainState, batch: dict, key: jax.Array):
        # After a rollback the same videos come again; other draws keep the run from walking the same path twice.
        key = jnp.where(state.rollbacks > 0, jax.random.fold_in(key, state.rollbacks), key)
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        video = prepare_training(definition, keys[0], batch["video"])
        draws = draw_targets(definition, keys[1], video, batch.get("frame_valid"))
        weights = edge_weights(definition, state.step, num_steps)
        progress, prepared = state.step / num_steps, batch | {"video": video}
        loss = build_loss(definition, prepared, draws, weights, memory=state.memory, progress=progress)
        gradients, found = jax.grad(loss, has_aux=True)(state.params, state.stats, keys[2])
        scale = schedules.rate_scale(state.rollbacks)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, rate_scale=scale)
        params = optax.apply_updates(state.params, updates)
        stats = _sound(state.stats, found.stats, batch["valid"])
        metrics = {"train/total": found.losses.total} | definition.method.metrics(found.losses)
        metrics["data/valid_share"] = batch["valid"].mean()
        metrics |= step_metrics.of_optimizer(opt_state)
        is_due = schedules.is_logged(state.step + 1, settings.logging.interval_steps, num_steps)
        parts = (settings, definition.hierarchy, found, draws, batch["valid"])
        metrics |= step_metrics.of_levels(*parts, is_due=is_due)
        metrics[ROLLBACKS] = state.rollbacks
        memory = definition.method.next_memory(settings, state.memory, params, found.losses, progress)
        memory = _sound(state.memory, memory, batch["valid"])
        return TrainState(state.step + 1, state.rollbacks, params, stats, opt_state, memory), metrics

    return train_step


def batch_fields(definition: Definition) -> tuple[str, ...]:
    """Return the fields of a batch that a step reads: frames can be padding only where short videos are padded."""
    frames = ("frame_valid",) if definition.settings.data.short_videos == "pad" else ()
    return (*definition.method.batch_fields, *frames)


def prepare_training(definition: Definition, key: jax.Array, video: Any) -> Any:
    """Return augmented, normalised float videos [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3].

    Of a method with views [B, V, T, Y, X, 3] of [B, V, T, Y', X', 3], or dicts of these; every view is changed by
    itself.
    """
    data, wanted = definition.settings.data, definition.settings.augmentation
    views = definition.method.views(definition.settings)
    if views is None:
        return prepare_windows(definition, key, video)

    def prepare(group: jax.Array, name: str, number: int) -> jax.Array:
        size, count = views.sizes[name], group.shape[1]
        own = wanted if size.area is None else dataclasses.replace(wanted, resized_crop_scale=size.area)
        options = {"height": size.height, "width": size.width}
        flat = group.reshape(-1, *group.shape[2:])
        changed = augmentation.augment(jax.random.fold_in(key, number), flat, own, **options)
        return augmentation.normalise(changed, data.mean, data.std).reshape(-1, count, *changed.shape[1:])

    if not isinstance(video, dict):
        return prepare(video, "", 0)
    return {name: prepare(video[name], name, number) for number, name in enumerate(sorted(video))}


def prepare_windows(definition: Definition, key: jax.Array, video: jax.Array) -> jax.Array:
    """Return augmented, normalised float videos [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3], whatever the method."""
    data, wanted = definition.settings.data, definition.settings.augmentation
    video = augmentation.augment(key, video, wanted, height=data.height, width=data.width)
    return augmentation.normalise(video, data.mean, data.std)


def prepare_evaluation(definition: Definition, video: jax.Array) -> jax.Array:
    """Return the middle of videos, normalised, float [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3]."""
    data = definition.settings.data
    return augmentation.normalise(augmentation.centre_crop(video, data.height, data.width), data.mean, data.std)


def draw_targets(definition: Definition, key: jax.Array, video: Any, frame_valid: Any = None) -> Any:
    """Return what the method draws for prepared videos, see `Method.draw`; of `local` what every edge is asked."""
    return definition.method.draw(definition.settings, definition.hierarchy, key, video, frame_valid)


def edge_weights(definition: Definition, step: jax.Array, num_steps: int) -> dict[str, jax.Array | float]:
    """Return the loss weight of every edge at `step`, keyed by edge name."""
    objective = definition.settings.objective
    weights = local.initial_edge_weights(definition.hierarchy.edges, objective)
    if objective.weights_to_uniform:
        weights = {name: schedules.edge_weight_at(weight, step, num_steps) for name, weight in weights.items()}
    return weights


def build_loss(
    definition: Definition,
    batch: dict,
    draws: Any,
    weights: dict,
    *,
    memory: state_lib.Tree | None = None,
    progress: jax.Array | float = 0.0,
) -> Callable:
    """Return `loss(params, stats, dropout_key) -> (total, StepOutputs)`.

    Args:
      definition: of the run.
      batch: `video`, prepared (`prepare_training`), and the other fields as in `build_train_step`.
      draws: of this step.
      weights: of every edge, by its name.
      memory: of the method; None: as before the first step.
      progress: share of the run that is done, 0 to 1.
    """
    masks = (batch.get("valid"), batch.get("frame_valid"), batch.get("label"))

    def loss(params, stats, key):
        model = state_lib.merge(definition.graphdef, params, stats)
        kept = jax.lax.stop_gradient(initial_memory(definition, params) if memory is None else memory)
        teacher = None
        if "params" in kept:
            # Parts that a teacher has not of its own are there, as the model is whole, and are not asked.
            whole = jax.lax.stop_gradient(params) | kept["params"]
            teacher = state_lib.merge(definition.graphdef, whole, stats)
        inputs = Inputs(batch["video"], *masks, draws, weights, progress, teacher, kept)
        losses, outputs, predictions = definition.method.losses(model, inputs, definition.settings, key=key)
        return losses.total, StepOutputs(losses, outputs, predictions, state_lib.statistics(model))

    return loss


def batch_shapes(definition: Definition, num_videos: int) -> dict[str, Any]:
    """Return shapes and dtypes of what a step gets of a batch of `num_videos`, videos as the model sees them."""
    data, views = definition.settings.data, definition.method.views(definition.settings)
    groups = {"": (data.num_frames, data.height, data.width)}
    if views is not None:
        groups = {
            name: (count, shape.length, *views.sizes[name][:2]) for name, (count, shape) in views.plan.groups().items()
        }
    videos = {name: jax.ShapeDtypeStruct((num_videos, *size, 3), jnp.uint8) for name, size in groups.items()}
    frames = {name: jax.ShapeDtypeStruct(video.shape[:-3], jnp.bool_) for name, video in videos.items()}
    shapes = {
        "video": videos.get("", videos),
        "frame_valid": frames.get("", frames),
        "valid": jax.ShapeDtypeStruct((num_videos,), jnp.bool_),
        "label": jax.ShapeDtypeStruct((num_videos,), jnp.int32),
    }
    return {name: shapes[name] for name in batch_fields(definition)}


def build_encode(definition: Definition) -> Callable[[dict, dict, jax.Array], dict[str, jax.Array]]:
    """Return `encode(params, stats, video) -> {level: features [B, D]}` for evaluation.

    `video` is uint8 [B, T, Y', X', 3], of which the middle is taken. A level's feature is the mean of
    its tokens over space and time, float32, after the output norm with running statistics. Where the model names
    classes itself, `HEAD` holds them, int32 [B].
    """
    method = definition.method

    def encode(params, stats, video):
        model, outputs = _frozen_outputs(definition, params, stats, video)
        features = {level: outputs[level].tokens.astype(jnp.float32).mean(1) for level in definition.hierarchy.levels}
        classes = method.predicted_classes(model, outputs)
        return features if classes is None else features | {HEAD: classes}

    return encode


def build_tokens(definition: Definition) -> Callable[[dict, dict, jax.Array], dict[str, jax.Array]]:
    """Return `tokens(params, stats, video) -> {level: float32 [B, N, D]}`: of every level, after the output norm.

    `video` as in `build_encode`, whose features are the means over N of these.
    """

    def encode(params, stats, video):
        _, outputs = _frozen_outputs(definition, params, stats, video)
        return {level: outputs[level].tokens.astype(jnp.float32) for level in definition.hierarchy.levels}

    return encode


def _frozen_outputs(definition: Definition, params, stats, video) -> tuple[Pyramid, dict[str, LevelOutput]]:
    """Return the model and its outputs in evaluation mode for the middle of videos uint8 [B, T, Y', X', 3]."""
    video = prepare_evaluation(definition, video)
    model = state_lib.merge(definition.graphdef, params, stats)
    return model, model(video, train=False, last_state=definition.method.last_state)


def _sound(old: dict, new: dict, valid: jax.Array) -> dict:
    # A NaN in one step must not stay in running statistics or a teacher, nor must a batch without any video.
    sound = lambda before, after: jnp.where(valid.any() & jnp.isfinite(after).all(), after, before)  # noqa: E731
    return jax.tree.map(sound, old, new)
