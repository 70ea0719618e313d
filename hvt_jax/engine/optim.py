"""One optimizer over labels, the parameter groups of a method: each moves on its own.

A label (`frame`, `frame/predictors`, `head`, ...) has its own state, clip, learning rate, NaN guard and
counters, so that no level can disturb another. Everything is a function of the step and of static
settings; inside `jit` the choices are selects, never Python branches, and work on sharded arrays.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine.groups import label_norms, parameter_labels
from hvt_jax.engine.optimizer_checks import check_optimizer
from hvt_jax.engine.schedules import Number, learning_rates, moving_labels
from hvt_jax.settings import OptimizerSettings

# Parts of a path whose parameters adamw, lars and lamb do not decay. Named, because positions, class
# tokens and codes are tables with two axes, as matrices are.
UNDECAYED = frozenset({"bias", "scale", "positions", "class_token", "codes"})


class OptimizerState(NamedTuple):
    """State of the whole optimizer; arrays only.

    Attributes:
      step: int32, calls of `update` so far (mini-batches, not updates).
      accumulated: mean gradients so far, like the parameters but without those of frozen labels; ()
        if `accumulation_steps` is 1.
      counters: by label, see `optimizer_statistics`.
      norms: by label, see `update_norms`.
      labels: state of the partition, by label.
    """

    step: jax.Array
    accumulated: Any
    counters: dict[str, dict[str, jax.Array]]
    norms: dict[str, dict[str, jax.Array]]
    labels: Any


def optimizer_statistics(state: OptimizerState) -> dict[str, dict[str, jax.Array]]:
    """Return `{label: {"skipped": int32, "consecutive": int32, "longest": int32}}`.

    Bad updates in all, those since the last good one, and the most that ever followed one another. The last
    never falls, so whoever looks at it only now and then misses no row of them.
    """
    return state.counters


def update_norms(state: OptimizerState) -> dict[str, dict[str, jax.Array]]:
    """Return `{label: {"gradient": float32, "update": float32}}` of the last update that was due; 0 before the first.

    The mean gradient before it is clipped, NaN or Inf if it was; and what was added to the parameters, 0 for
    a label that was skipped or rested. Frozen labels accumulate nothing: their gradient is the last mini-batch's.
    """
    return state.norms


def build_optimizer(
    settings: OptimizerSettings, groups: tuple[str, ...], *, steps_per_epoch: int, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of all labels; its `update` needs the parameters and takes a `rate_scale` for all rates.

    One call of `update` is one mini-batch; every `accumulation_steps` calls make one update from the
    mean of their gradients, the calls between return zeros. A label whose mean gradient or update
    has a NaN, an Inf or a norm beyond float32 is skipped for this *update* (hence for all its
    mini-batches): neither its parameters nor its optimizer state change, and its counters go up.
    However many follow one another, none gets through. A label that does not move keeps its state,
    too, and weight decay leaves it alone.

    With `single`, the norm to clip and the guard are joint for all moving labels: a NaN anywhere skips
    the whole update. Rates, freezing and turns stay per label, like a torch optimizer's groups.

    Args:
      settings: see `configs/default.py`.
      groups: the parameter groups of the method, its levels lowest first.
      steps_per_epoch: mini-batches in an epoch.
      num_steps: mini-batches in the run; trailing ones that fill no update are not used.

    Raises:
      SettingsError: if something could never train; see `optimizer_checks`.
    """
    check_optimizer(settings, groups, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
    optimizer = _Optimizer(settings, groups, steps_per_epoch, num_steps)
    return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)


@dataclasses.dataclass(frozen=True)
class _Optimizer:
    """The two functions of the transformation that `build_optimizer` returns."""

    settings: OptimizerSettings
    groups: tuple[str, ...]
    steps_per_epoch: int
    num_steps: int

    def _partition(self) -> optax.GradientTransformationExtraArgs:
        transforms = {label: _label_transform(self.settings, label) for label in self.groups}
        return optax.partition(transforms, lambda tree: parameter_labels(tree, self.groups))

    def init(self, params: optax.Params) -> OptimizerState:
        labels = parameter_labels(params, self.groups)
        counters = {label: _zeros(("skipped", "consecutive", "longest"), jnp.int32) for label in self.groups}
        norms = {label: _zeros(("gradient", "update"), jnp.float32) for label in self.groups}
        accumulated = ()
        if self.settings.accumulation_steps > 1:
            accumulated = _mask_frozen(self.settings, labels, jax.tree.map(jnp.zeros_like, params))
        state = self._partition().init(params)
        return OptimizerState(jnp.zeros((), jnp.int32), accumulated, counters, norms, state)

    def update(self, gradients, state, params=None, *, rate_scale=1.0) -> tuple[optax.Updates, OptimizerState]:
        timing = {"steps_per_epoch": self.steps_per_epoch}
        moves = moving_labels(self.settings, self.groups, state.step, **timing)
        rates = learning_rates(self.settings, self.groups, state.step, num_steps=self.num_steps, **timing)
        rates = {label: rate * rate_scale for label, rate in rates.items()}
        labels = parameter_labels(gradients, self.groups)
        gradients, accumulated, is_due = _accumulate(self.settings, gradients, state, labels)
        gradient_norms = label_norms(gradients, labels)
        gradients, guarded = _clip(self.settings, gradients, gradient_norms, labels, moves)
        updates, partition = self._partition().update(gradients, state.labels, params, rates=rates)
        norms = label_norms(updates, labels)
        healthy = _healthy(self.settings, guarded, norms, moves)

        due = {label: moves[label] & is_due for label in moves}
        apply = {label: due[label] & healthy[label] for label in moves}
        bad = {label: due[label] & ~healthy[label] for label in moves}
        updates = jax.tree.map(lambda label, x: _select(apply[label], x, jnp.zeros_like(x)), labels, updates)
        states = {
            label: jax.tree.map(partial(_select, apply[label]), new, state.labels.inner_states[label])
            for label, new in partition.inner_states.items()
        }
        counters = {label: _count(state.counters[label], apply[label], bad[label]) for label in moves}
        applied = {label: jnp.where(apply[label], norm, 0.0) for label, norm in norms.items()}
        norms = {label: {"gradient": gradient_norms[label], "update": applied[label]} for label in moves}
        norms = jax.tree.map(partial(_select, is_due), norms, state.norms)
        partition = partition._replace(inner_states=states)
        return updates, OptimizerState(state.step + 1, accumulated, counters, norms, partition)


def _zeros(names: tuple[str, ...], dtype: jnp.dtype) -> dict[str, jax.Array]:
    return {name: jnp.zeros((), dtype) for name in names}


def _is_decayed(tree: Any) -> Any:
    """Booleans: True for the matrices, False for norms, biases, class tokens, positions and codes."""

    def decide(path: tuple, leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and UNDECAYED.isdisjoint(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))

    return jax.tree_util.tree_map_with_path(decide, tree)


def _base_optimizer(name: str, settings: OptimizerSettings, rate: Number) -> optax.GradientTransformation:
    """The optimizer `name`; sgd and adadelta decay every parameter through its gradient, as in torch."""
    decay, momentum = settings.weight_decay, settings.momentum
    match name:
        case "sgd":
            sgd = optax.sgd(rate, momentum=momentum or None, nesterov=settings.nesterov)
            return optax.chain(optax.add_decayed_weights(decay), sgd)
        case "adadelta":
            return optax.adadelta(rate, weight_decay=decay)
        case "adamw":
            return optax.adamw(rate, b1=settings.b1, b2=settings.b2, weight_decay=decay, mask=_is_decayed)
        case "lamb":
            return optax.lamb(rate, b1=settings.b1, b2=settings.b2, weight_decay=decay, mask=_is_decayed)
        case _:  # lars
            masks = {"weight_decay_mask": _is_decayed, "trust_ratio_mask": _is_decayed}
            return optax.lars(rate, decay, momentum=momentum, nesterov=settings.nesterov, **masks)


def _label_transform(settings: OptimizerSettings, label: str) -> optax.GradientTransformation:
    """The transform of one label; its rate comes with each call.

    The rate follows the global step, while counts inside the state stop whenever the label rests.
    """
    if label in settings.frozen:
        return optax.set_to_zero()
    own = settings.predictors == "own" and "/" in label
    name = settings.predictor_name if own else settings.name

    def init(params: optax.Params) -> optax.OptState:
        return _base_optimizer(name, settings, 0.0).init(params)

    def update(gradients, state, params=None, *, rates):
        return _base_optimizer(name, settings, rates[label]).update(gradients, state, params)

    return optax.GradientTransformationExtraArgs(init, update)


def _mask_frozen(settings: OptimizerSettings, labels: Any, tree: Any) -> Any:
    """`tree` without the arrays of frozen labels, which need no accumulator."""
    return jax.tree.map(lambda label, x: optax.MaskedNode() if label in settings.frozen else x, labels, tree)


def _accumulate(
    settings: OptimizerSettings, gradients: Any, state: OptimizerState, labels: Any
) -> tuple[Any, Any, bool | jax.Array]:
    """Return the mean gradients so far, what to keep of them, and whether an update is due."""
    count = settings.accumulation_steps
    if count == 1:
        return gradients, (), True

    def add(label: str, total: Any, gradient: jax.Array) -> jax.Array:
        return gradient if label in settings.frozen else total + gradient / count

    mean = jax.tree.map(add, labels, state.accumulated, gradients)
    is_due = state.step % count == count - 1
    kept = jax.tree.map(lambda x: jnp.where(is_due, jnp.zeros_like(x), x), mean)
    return mean, _mask_frozen(settings, labels, kept), is_due


def _clip(settings: OptimizerSettings, gradients: Any, norms: dict, labels: Any, moves: dict) -> tuple[Any, dict]:
    """Scale each label's gradients to norm `clip_norm` or less; return the norms that decided, too."""
    if settings.single:
        joint = optax.tree.norm([jnp.where(moves[label], norm, 0.0) for label, norm in norms.items()])
        norms = dict.fromkeys(norms, joint)
    if settings.clip_norm:
        limit = settings.clip_norm
        factors = {label: jnp.where(norm > limit, limit / norm, 1.0) for label, norm in norms.items()}
        gradients = jax.tree.map(lambda label, x: x * factors[label].astype(x.dtype), labels, gradients)
    return gradients, norms


def _healthy(settings: OptimizerSettings, gradient_norms: dict, update_norms: dict, moves: dict) -> dict:
    """Tell for each label whether its gradients and update are finite; all alike if there is one guard."""
    healthy = {label: jnp.isfinite(gradient_norms[label]) & jnp.isfinite(update_norms[label]) for label in moves}
    if settings.single:
        joint = jnp.stack([healthy[label] | ~moves[label] for label in moves]).all()
        healthy = dict.fromkeys(healthy, joint)
    return healthy


def _count(counters: dict, applied: jax.Array, bad: jax.Array) -> dict:
    """Counters after a step; a label at rest keeps them, only a good update ends a row of bad ones."""
    consecutive = jnp.where(applied, 0, counters["consecutive"] + bad)
    longest = jnp.maximum(counters["longest"], consecutive)
    return {"skipped": counters["skipped"] + bad, "consecutive": consecutive, "longest": longest}


def _select(condition: bool | jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` where `condition`, else `old`, in the dtype of `old`: the state's types never change."""
    return jnp.where(condition, new.astype(old.dtype), old)
