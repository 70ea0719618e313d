"""The compiled functions of a run: initialise, train one step, encode for evaluation.

Pure functions over a plain `TrainState`; everything static is in a `Definition`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine import augmentation, monitors, schedules
from hvt_jax.engine import state as state_lib
from hvt_jax.engine.optim import optimizer_statistics, update_norms
from hvt_jax.engine.state import TrainState
from hvt_jax.hierarchy import LEVELS, RELATIONS, Edge, Geometry, hierarchy_edges
from hvt_jax.model.pyramid import model_geometry
from hvt_jax.objectives import local
from hvt_jax.objectives import questions as questions_lib
from hvt_jax.objectives.questions import Questions
from hvt_jax.settings import DataSettings, ObjectiveSettings, Settings, SettingsError

LONGEST_BAD_ROW = "longest_bad_row"  # metric: the most bad updates that ever followed one another, of any label


@dataclasses.dataclass(frozen=True)
class Definition:
    """What is static about a run.

    Attributes:
      settings: the whole config.
      geometry: sizes of the hierarchy.
      edges: its predictions.
      graphdef: the model without its arrays.
    """

    settings: Settings
    geometry: Geometry
    edges: tuple[Edge, ...]
    graphdef: state_lib.GraphDef

    @property
    def hierarchy(self) -> tuple[str, ...]:
        """Trained levels, lowest first."""
        return self.geometry.hierarchy


def define(settings: Settings) -> Definition:
    """Return the static parts of a run.

    Raises:
      SettingsError: for a geometry that is impossible, or the weight of an edge that it does not have.
    """
    data, model, objective = settings.data, settings.model, settings.objective
    if model.compute_dtype == "float64" and not jax.config.jax_enable_x64:
        raise SettingsError("model.compute_dtype = float64 needs the environment variable JAX_ENABLE_X64=1")
    try:
        geometry = model_geometry(model, num_frames=data.num_frames, height=data.height, width=data.width)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    edges = hierarchy_edges(
        geometry, model.causal_levels, objective.side, up_to_one=not local.leaves_up_to_one(objective)
    )
    _check_edge_weights(objective, edges)
    _check_every_level_predicts(geometry, edges)
    return Definition(settings, geometry, edges, state_lib.graph_definition(model, geometry, edges))


def _check_edge_weights(objective: ObjectiveSettings, edges: tuple[Edge, ...]) -> None:
    """Raise SettingsError for a weight that no edge has, unless it is 1, as in every config."""
    known = {(edge.source, edge.relation) for edge in edges}
    for level in LEVELS:
        for relation in RELATIONS:
            weight = getattr(getattr(objective.edge_weights, level), relation)
            if weight != 1 and (level, relation) not in known:
                raise SettingsError(
                    f"objective.edge_weights.{level}.{relation} = {weight:g} weighs nothing: the {len(edges)} edges of "
                    f"this config are {', '.join(map(str, edges))}; set it to 1"
                )


def _check_every_level_predicts(geometry: Geometry, edges: tuple[Edge, ...]) -> None:
    for level in geometry.hierarchy:
        if not any(edge.source == level for edge in edges):
            raise SettingsError(
                f"the level {level} has nothing to predict: the one token above leaves no choice among the candidates "
                "of the same video; set objective.batch_candidates_weight = 1, or another objective.distance"
            )


def initial_variables(definition: Definition, key: jax.Array | int) -> tuple[state_lib.Tree, state_lib.Tree]:
    """Return fresh (parameters, statistics) of the model; pure."""
    return state_lib.initial_variables(definition.settings.model, definition.geometry, definition.edges, key=key)


def build_initialise(
    definition: Definition, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """Return `initialise(key)`, pure, so that it can be compiled into sharded outputs."""

    def initialise(key: jax.Array) -> TrainState:
        params, stats = initial_variables(definition, key)
        return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))

    return initialise


def build_train_step(
    definition: Definition, optimizer: optax.GradientTransformation, *, num_steps: int
) -> Callable[[TrainState, dict, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `train_step(state, batch, key) -> (state, metrics)`.

    All randomness is a function of `key` and `state.step`. `batch` holds `video` uint8
    [B, T, Y', X', 3], `valid` bool [B] and, where frames can be padding, `frame_valid` bool [B, T]; videos and frames
    that are not valid count in no loss, and are nobody's candidates; the statistics of norms leave out videos only.
    Metrics are device scalars; `monitor/...` are computed in steps that are logged
    (`schedules.is_logged`) and 0 in the others, norms are those of the last update (`optim.update_norms`).
    """

    def train_step(state: TrainState, batch: dict, key: jax.Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        video = prepare_training(definition, keys[0], batch["video"])
        questions = draw_questions(definition, keys[1], video, batch.get("frame_valid"))
        weights = edge_weights(definition, state.step, num_steps)
        loss = build_loss(definition, batch | {"video": video}, questions, weights)
        gradients, (losses, outputs, predictions, stats) = jax.grad(loss, has_aux=True)(
            state.params, state.stats, keys[2]
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        stats = _sound_statistics(state.stats, stats, batch["valid"])
        metrics = _loss_metrics(definition, losses)
        metrics["data/valid_share"] = batch["valid"].mean()
        metrics |= _optimizer_metrics(opt_state)
        asked = (losses, outputs, predictions, questions.candidates, batch["valid"])
        metrics |= _monitors(definition, state.step, num_steps, asked)
        return TrainState(state.step + 1, params, stats, opt_state), metrics

    return train_step


def batch_fields(settings: DataSettings) -> tuple[str, ...]:
    """Return the fields of a batch that a step reads: frames can be padding only where short videos are padded."""
    return ("video", "valid", "frame_valid") if settings.short_videos == "pad" else ("video", "valid")


def prepare_training(definition: Definition, key: jax.Array, video: jax.Array) -> jax.Array:
    """Return augmented, normalised float videos [B, T, Y, X, 3] from uint8 [B, T, Y', X', 3]."""
    data = definition.settings.data
    video = augmentation.augment(key, video, definition.settings.augmentation, height=data.height, width=data.width)
    return augmentation.normalise(video, data.mean, data.std)


def draw_questions(
    definition: Definition, key: jax.Array, video: jax.Array, frame_valid: jax.Array | None = None
) -> Questions:
    """Return what every edge is asked about `video`, see `objectives.questions`."""
    return questions_lib.draw_questions(
        definition.settings, definition.edges, definition.geometry, key, video, frame_valid
    )


def edge_weights(definition: Definition, step: jax.Array, num_steps: int) -> dict[str, jax.Array | float]:
    """Return the loss weight of every edge at `step`, keyed by edge name."""
    objective = definition.settings.objective
    weights = local.initial_edge_weights(definition.edges, objective)
    if objective.weights_to_uniform:
        weights = {name: schedules.edge_weight_at(weight, step, num_steps) for name, weight in weights.items()}
    return weights


def build_loss(definition: Definition, batch: dict, questions: Questions, weights: dict) -> Callable:
    """Return `loss(params, stats, dropout_key) -> (total, (losses, outputs, predictions, statistics))`.

    Args:
      definition: of the run.
      batch: `video` float [B, T, Y, X, 3], normalised; `valid` and `frame_valid` as in `build_train_step`.
      questions: of this step.
      weights: of every edge, by its name.
    """
    objective, masks = definition.settings.objective, _masks(batch)
    attached = {"attached": objective.targets == "attached", "attached_side": objective.distance == "contrastive"}

    def loss(params, stats, key):
        pyramid = state_lib.merge(definition.graphdef, params, stats)
        outputs = pyramid(batch["video"], train=True, valid=batch.get("valid"), key=key)
        predictions = local.predict(
            pyramid, outputs, questions.draws, train=True, change=questions.change, **masks, **attached
        )
        parts = (predictions, outputs, definition.edges, definition.geometry, objective)
        losses = local.local_losses(*parts, edge_weights=weights, candidates=questions.candidates, **masks)
        return losses.total, (losses, outputs, predictions, state_lib.statistics(pyramid))

    return loss


def _masks(batch: dict) -> dict[str, jax.Array | None]:
    return {name: batch.get(name) for name in ("valid", "frame_valid")}


def build_encode(definition: Definition) -> Callable[[dict, dict, jax.Array], dict[str, jax.Array]]:
    """Return `encode(params, stats, video) -> {level: features [B, D]}` for evaluation.

    `video` is uint8 [B, T, Y', X', 3], of which the middle is taken. A level's feature is the mean of
    its tokens over space and time, float32, after the output norm with running statistics.
    """
    data = definition.settings.data

    def encode(params, stats, video):
        video = augmentation.centre_crop(video, data.height, data.width)
        video = augmentation.normalise(video, data.mean, data.std)
        outputs = state_lib.merge(definition.graphdef, params, stats)(video, train=False)
        return {level: outputs[level].tokens.astype(jnp.float32).mean(1) for level in definition.hierarchy}

    return encode


def _sound_statistics(old: dict, new: dict, valid: jax.Array) -> dict:
    # A NaN in one step must not stay in the running statistics, nor must a batch without any video.
    sound = lambda before, after: jnp.where(valid.any() & jnp.isfinite(after).all(), after, before)  # noqa: E731
    return jax.tree.map(sound, old, new)


def _loss_metrics(definition: Definition, losses: local.LocalLosses) -> dict[str, jax.Array]:
    metrics = {"train/total": losses.total}
    for edge in definition.edges:
        metrics[f"train/{edge}"] = losses.edges[edge.source][str(edge)]
    for level, value in losses.regularizers.items():
        metrics[f"train/{level}/regularizer"] = value
    return metrics


def _optimizer_metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    metrics, counters = {}, optimizer_statistics(opt_state)
    for label, norms in update_norms(opt_state).items():
        metrics |= {f"{name}_norm/{label}": norm for name, norm in norms.items()}
        metrics |= {f"{name}_updates/{label}": counters[label][name] for name in ("skipped", "consecutive")}
    # One number for all labels, because it is fetched at every step.
    metrics[LONGEST_BAD_ROW] = jnp.stack([counts["longest"] for counts in counters.values()]).max()
    return metrics


def _monitors(definition, step, num_steps, asked) -> dict[str, jax.Array]:
    settings = definition.settings
    losses, outputs, predictions, candidates, valid = jax.lax.stop_gradient(asked)

    def measure():
        raw = {level: outputs[level].raw for level in definition.hierarchy}
        found = monitors.monitor_levels(raw, valid, settings.evaluation.monitor_tokens)
        for edge in definition.edges:
            name = str(edge)
            for kind, answer in _uninformed(settings.objective, predictions[name]).items():
                cost = _loss_of(definition, edge, predictions[name], candidates, answer)
                found[f"monitor/{edge}/{kind}_ratio"] = monitors.loss_ratio(losses.edges[edge.source][name], cost)
        return jax.tree.map(lambda x: x.astype(jnp.float32), found)

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
    return local.edge_loss(settings, edge, definition.edges, definition.geometry, asked, candidates)
