"""The compiled functions of a run: initialise, train one step, encode for evaluation.

Pure functions over a plain `TrainState`; everything static is in a `Definition`, and what a method of training decides
is asked of `Definition.method`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine import augmentation, monitors, schedules
from hvt_jax.engine import state as state_lib
from hvt_jax.engine.optim import optimizer_statistics, update_norms
from hvt_jax.engine.state import TrainState
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.model.stem import merge_frames
from hvt_jax.objectives import local, methods, step_draws
from hvt_jax.objectives.method import Inputs, Method
from hvt_jax.objectives.step_draws import StepDraws
from hvt_jax.settings import ObjectiveSettings, Settings, SettingsError
from hvt_jax.settings.geometry import model_hierarchy

HEAD = "head"  # among the features of a video: the class that the model names
LONGEST_BAD_ROW = "longest_bad_row"  # metric: the most bad updates that ever followed one another, of any label
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


class StepOutputs(NamedTuple):
    """What a loss was made of.

    Attributes:
      losses: of every edge and level, and their sum.
      levels: outputs by level.
      predictions: what every edge predicted, and what was there, by its name.
      stats: running statistics after the step.
    """

    losses: local.LocalLosses
    levels: dict[str, LevelOutput]
    predictions: dict[str, local.Prediction]
    stats: state_lib.Tree


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
        return TrainState(none, none, params, stats, optimizer.init(params))

    return initialise


def build_train_step(
    definition: Definition, optimizer: optax.GradientTransformation, *, num_steps: int
) -> Callable[[TrainState, dict, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `train_step(state, batch, key) -> (state, metrics)`.

    All randomness is a function of `key`, `state.step` and `state.rollbacks`. `batch` holds `video` uint8
    [B, T, Y', X', 3], `valid` bool [B] and what else `batch_fields` names, such as `frame_valid` bool [B, T]; videos
    and frames that are not valid count in no loss, and are nobody's candidates; the statistics of norms leave out
    videos only.
    Metrics are device scalars; `monitor/...` are computed in steps that are logged
    (`schedules.is_logged`) and 0 in the others, norms are those of the last update (`optim.update_norms`).
    """

    def train_step(state: TrainState, batch: dict, key: jax.Array):
        # After a rollback the same videos come again; other draws keep the run from walking the same path twice.
        key = jnp.where(state.rollbacks > 0, jax.random.fold_in(key, state.rollbacks), key)
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        video = prepare_training(definition, keys[0], batch["video"])
        draws = draw_targets(definition, keys[1], video, batch.get("frame_valid"))
        weights = edge_weights(definition, state.step, num_steps)
        loss = build_loss(definition, batch | {"video": video}, draws, weights)
        gradients, found = jax.grad(loss, has_aux=True)(state.params, state.stats, keys[2])
        scale = schedules.rate_scale(state.rollbacks)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, rate_scale=scale)
        params = optax.apply_updates(state.params, updates)
        stats = _sound_statistics(state.stats, found.stats, batch["valid"])
        metrics = {"train/total": found.losses.total} | definition.method.metrics(found.losses)
        metrics["data/valid_share"] = batch["valid"].mean()
        metrics |= _optimizer_metrics(opt_state)
        metrics |= _monitors(definition, state.step, num_steps, found, draws.candidates, batch["valid"])
        metrics[ROLLBACKS] = state.rollbacks
        return TrainState(state.step + 1, state.rollbacks, params, stats, opt_state), metrics

    return train_step


def batch_fields(definition: Definition) -> tuple[str, ...]:
    """Return the fields of a batch that a step reads: frames can be padding only where short videos are padded."""
    frames = ("frame_valid",) if definition.settings.data.short_videos == "pad" and definition.hierarchy.edges else ()
    return (*definition.method.batch_fields, *frames)


def prepare_training(definition: Definition, key: jax.Array, video: jax.Array) -> jax.Array:
    """Return augmented, normalised float videos [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3]."""
    data = definition.settings.data
    video = augmentation.augment(key, video, definition.settings.augmentation, height=data.height, width=data.width)
    return augmentation.normalise(video, data.mean, data.std)


def prepare_evaluation(definition: Definition, video: jax.Array) -> jax.Array:
    """Return the middle of videos, normalised, float [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3]."""
    data = definition.settings.data
    return augmentation.normalise(augmentation.centre_crop(video, data.height, data.width), data.mean, data.std)


def draw_targets(
    definition: Definition, key: jax.Array, video: jax.Array, frame_valid: jax.Array | None = None
) -> StepDraws:
    """Return what every edge is asked about `video`, see `objectives.step_draws`."""
    return step_draws.draw(definition.settings, definition.hierarchy, key, video, frame_valid)


def edge_weights(definition: Definition, step: jax.Array, num_steps: int) -> dict[str, jax.Array | float]:
    """Return the loss weight of every edge at `step`, keyed by edge name."""
    objective = definition.settings.objective
    weights = local.initial_edge_weights(definition.hierarchy.edges, objective)
    if objective.weights_to_uniform:
        weights = {name: schedules.edge_weight_at(weight, step, num_steps) for name, weight in weights.items()}
    return weights


def build_loss(definition: Definition, batch: dict, draws: StepDraws, weights: dict) -> Callable:
    """Return `loss(params, stats, dropout_key) -> (total, StepOutputs)`.

    Args:
      definition: of the run.
      batch: `video` float [B, T, Y, X, 3], normalised, and the other fields as in `build_train_step`.
      draws: of this step.
      weights: of every edge, by its name.
    """
    frame_valid = merge_frames(batch.get("frame_valid"), definition.hierarchy.frame_step)
    masks = (batch.get("valid"), frame_valid, batch.get("label"))
    inputs, objective = Inputs(batch["video"], *masks, draws, weights), definition.settings.objective

    def loss(params, stats, key):
        model = state_lib.merge(definition.graphdef, params, stats)
        losses, outputs, predictions = definition.method.losses(model, inputs, objective, key=key)
        return losses.total, StepOutputs(losses, outputs, predictions, state_lib.statistics(model))

    return loss


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


def _sound_statistics(old: dict, new: dict, valid: jax.Array) -> dict:
    # A NaN in one step must not stay in the running statistics, nor must a batch without any video.
    sound = lambda before, after: jnp.where(valid.any() & jnp.isfinite(after).all(), after, before)  # noqa: E731
    return jax.tree.map(sound, old, new)


def _optimizer_metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    metrics, counters = {}, optimizer_statistics(opt_state)
    for label, norms in update_norms(opt_state).items():
        metrics |= {f"{name}_norm/{label}": norm for name, norm in norms.items()}
        metrics |= {f"{name}_updates/{label}": counters[label][name] for name in ("skipped", "consecutive")}
    # One number for all labels, because it is fetched at every step.
    metrics[LONGEST_BAD_ROW] = jnp.stack([counts["longest"] for counts in counters.values()]).max()
    return metrics


def _monitors(definition, step, num_steps, found: StepOutputs, candidates, valid) -> dict[str, jax.Array]:
    settings, found = definition.settings, jax.lax.stop_gradient(found)

    def measure():
        raw = {level: found.levels[level].raw for level in definition.hierarchy.levels}
        metrics = monitors.monitor_levels(raw, valid, settings.evaluation.monitor_tokens)
        for edge in definition.hierarchy.edges:
            name = str(edge)
            for kind, answer in _uninformed(settings.objective, found.predictions[name]).items():
                cost = _loss_of(definition, edge, found.predictions[name], candidates, answer)
                ratio = monitors.loss_ratio(found.losses.edges[edge.source][name], cost)
                metrics[f"monitor/{edge}/{kind}_ratio"] = ratio
        return jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure))
    is_due = schedules.is_logged(step + 1, settings.logging.interval_steps, num_steps)
    return jax.lax.cond(is_due, measure, lambda: zeros)


def _uninformed(settings: ObjectiveSettings, asked: local.Prediction) -> dict[str, jax.Array]:
    """Return what could be answered without having learned anything, by name.

    "mean": the mean target, or what makes all candidates alike; "copy": the source token, if as wide as the target.
    """
    chooses = settings.distance == "contrastive"
    answers = {"mean": jnp.zeros(()) if chooses else monitors.mean_target(asked.target, asked.weight)}
    if asked.source.shape[-1] == asked.target.shape[-1]:
        answers["copy"] = asked.source
    return answers


def _loss_of(definition, edge, asked: local.Prediction, candidates, answer: jax.Array) -> jax.Array:
    """Return the loss of an edge if `answer`, which is broadcast to [B, N, D], were its prediction."""
    answer = jnp.broadcast_to(answer, asked.prediction.shape).astype(asked.prediction.dtype)
    settings, asked = definition.settings.objective, asked._replace(prediction=answer)
    return local.edge_loss(settings, edge, definition.hierarchy, asked, candidates)
