"""What a step found, and the scalars that are logged of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine import monitors
from hvt_jax.engine.optim import optimizer_statistics, update_norms
from hvt_jax.hierarchy import Edge, Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.objectives import local
from hvt_jax.settings import ObjectiveSettings, Settings

LONGEST_BAD_ROW = "longest_bad_row"  # metric: the most bad updates that ever followed one another, of any label


class StepOutputs(NamedTuple):
    """What a loss was made of.

    Attributes:
      losses: of the method, with their sum as `total`.
      levels: outputs by level.
      predictions: what every edge predicted, and what was there, by its name.
      stats: running statistics after the step.
    """

    losses: Any
    levels: dict[str, LevelOutput]
    predictions: dict[str, local.Prediction]
    stats: dict[str, Any]


def of_optimizer(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Return norms and counts of bad updates, by label."""
    metrics, counters = {}, optimizer_statistics(opt_state)
    for label, norms in update_norms(opt_state).items():
        metrics |= {f"{name}_norm/{label}": norm for name, norm in norms.items()}
        metrics |= {f"{name}_updates/{label}": counters[label][name] for name in ("skipped", "consecutive")}
    # One number for all labels, because it is fetched at every step.
    metrics[LONGEST_BAD_ROW] = jnp.stack([counts["longest"] for counts in counters.values()]).max()
    return metrics


def of_levels(
    settings: Settings, hierarchy: Hierarchy, found: StepOutputs, draws: Any, valid: jax.Array, *, is_due: jax.Array
) -> dict[str, jax.Array]:
    """Return the monitors of levels and edges, float32; 0 unless `is_due`, and then nothing is computed.

    Args:
      settings: of the run.
      hierarchy: with its edges.
      found: what the step found.
      draws: of the step; of a method with edges its `StepDraws`.
      valid: bool [B].
      is_due: whether the step is logged.
    """
    found = jax.lax.stop_gradient(found)

    def measure():
        raw = {level: found.levels[level].raw for level in hierarchy.levels}
        metrics = monitors.monitor_levels(raw, valid, settings.evaluation.monitor_tokens)
        for edge in hierarchy.edges:
            name = str(edge)
            for kind, answer in _uninformed(settings.objective, found.predictions[name]).items():
                cost = _loss_of(settings.objective, hierarchy, edge, found.predictions[name], draws.candidates, answer)
                ratio = monitors.loss_ratio(found.losses.edges[edge.source][name], cost)
                metrics[f"monitor/{edge}/{kind}_ratio"] = ratio
        return jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure))
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


def _loss_of(
    settings: ObjectiveSettings, hierarchy: Hierarchy, edge: Edge, asked: local.Prediction, candidates, answer
) -> jax.Array:
    """Return the loss of an edge if `answer`, which is broadcast to [B, N, D], were its prediction."""
    answer = jnp.broadcast_to(answer, asked.prediction.shape).astype(asked.prediction.dtype)
    return local.edge_loss(settings, edge, hierarchy, asked._replace(prediction=answer), candidates)
