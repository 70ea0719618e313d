"""What changes while a run trains, as closed forms of the step: rates, weights, turns, evaluations.

Nothing here keeps state, so a resumed run cannot fall out of step. Functions of a step take a Python
number (computed in float64 on the host, for logs) or a jax array (traced, inside the step).
"""

import dataclasses
import math
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine.groups import levels_of
from hvt_jax.settings import OptimizerSettings

Number = int | float | jax.Array


@dataclasses.dataclass(frozen=True)
class RateSchedule:
    """A linear warm-up to `peak`, then a decay; call it with a step, counted from 0.

    The peak is reached *at* step `warmup_steps - 1` and the decay counts from there, as in the
    original. The cosine is not held at its end: it climbs again after `decay_steps`, as the
    original's does (its half period is 6 epochs in a run of 24). `learning_rate` never goes there.

    Attributes:
      kind: `cosine` to `final`, `step` (times `step_decay` every `step_steps`) or `constant`.
      peak: the rate after the warm-up.
      warmup_start: the rate at step 0, where there is a warm-up of 2 steps or more.
      warmup_steps: steps up to and with the first one at `peak`.
      final: the cosine's lowest rate.
      decay_steps: steps from `peak` to `final`.
      step_steps: steps between two decays of `step`.
      step_decay: factor of each decay of `step`.
    """

    kind: Literal["cosine", "step", "constant"]
    peak: float
    warmup_start: float
    warmup_steps: int
    final: float
    decay_steps: int
    step_steps: int
    step_decay: float

    def __call__(self, step: Number) -> Number:
        """Return the learning rate at `step`."""
        xp: ModuleType = jnp if isinstance(step, jax.Array) else np
        climb = max(self.warmup_steps - 1, 0)
        warming = self.warmup_start + (self.peak - self.warmup_start) * step / max(climb, 1)
        position = xp.maximum(step - climb, 0)
        if self.kind == "cosine":
            share = 0.5 * (1 + xp.cos(math.pi * position / self.decay_steps))
            decayed = self.final + (self.peak - self.final) * share
        elif self.kind == "step":
            decayed = self.peak * self.step_decay ** xp.floor_divide(position, self.step_steps)
        else:
            decayed = self.peak
        rate = xp.where(step < climb, warming, decayed)
        return rate if isinstance(step, jax.Array) else float(rate)


def learning_rate(settings: OptimizerSettings, step: Number, *, steps_per_epoch: int, num_steps: int) -> Number:
    """Return the rate of the levels at `step`: `final_rate` at the last step for `cosine`, and held after it.

    The warm-up starts at 1/n of the peak, n being its steps, so that the first step is not lost at
    rate zero. (The original starts at a fixed value of its own and schedules by epoch.)
    """
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    schedule = RateSchedule(
        kind=settings.schedule,
        peak=settings.learning_rate,
        warmup_start=settings.learning_rate / max(warmup_steps, 1),
        warmup_steps=warmup_steps,
        final=settings.final_rate,
        decay_steps=max(num_steps - max(warmup_steps, 1), 1),
        step_steps=max(round(settings.step_epochs * steps_per_epoch), 1),
        step_decay=settings.step_decay,
    )
    last = max(num_steps - 1, 0)
    return schedule(jnp.minimum(step, last) if isinstance(step, jax.Array) else min(step, last))


def level_moves(
    settings: OptimizerSettings, hierarchy: tuple[str, ...], level: str, step: Number, *, steps_per_epoch: int
) -> bool | jax.Array:
    """Tell whether `level` (and its predictors) may move at `step`: staged start and alternation.

    Alternation counts turns from step 0 on and through the ends of epochs: turn n belongs to the
    levels whose index in the hierarchy has the parity of n. An odd number of turns in an epoch
    therefore only makes the other half begin the next epoch. (The original toggled flags that went
    out of step there, and froze nothing before the first switch.) A turn is `alternating_percent` %
    of an epoch, rounded to whole updates, at least one.
    """
    moves = step >= round(getattr(settings.start_epochs, level) * steps_per_epoch)
    if settings.alternating_percent:
        updates = settings.alternating_percent / 100 * steps_per_epoch / settings.accumulation_steps
        turn_steps = settings.accumulation_steps * max(round(updates), 1)
        moves = moves & ((step // turn_steps) % 2 == hierarchy.index(level) % 2)
    return moves


def learning_rates(
    settings: OptimizerSettings, groups: tuple[str, ...], step: Number, *, steps_per_epoch: int, num_steps: int
) -> dict[str, Number]:
    """Return the scheduled rate of every group at `step`, whether it moves or not.

    Except in mode `with`, predictors have their level's rate times `predictor_rate_multiplier` from
    the first step to the last. (In the original's mode 1 the start of the warm-up and the end of the
    cosine are not multiplied; in its mode 2 they are, as here.)
    """
    start = _update_start(settings, step)
    rate = learning_rate(settings, start, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
    multiplier = 1.0 if settings.predictors == "with" else settings.predictor_rate_multiplier
    return {label: rate * multiplier if "/" in label else rate for label in groups}


def rate_scale(rollbacks: Number) -> Number:
    """Return what all learning rates are multiplied by after so many rollbacks: 1, and half of it for each."""
    return 0.5**rollbacks if isinstance(rollbacks, int) else jnp.ldexp(jnp.float32(1), -rollbacks)


def moving_labels(
    settings: OptimizerSettings, groups: tuple[str, ...], step: Number, *, steps_per_epoch: int
) -> dict[str, bool | jax.Array]:
    """Tell for every group whether it moves at `step`: frozen, staged start, alternation.

    A group that is no level's, such as a head, has no turns and no start of its own: it moves unless it is frozen.
    """
    start, hierarchy = _update_start(settings, step), levels_of(groups)
    moves = {
        level: level_moves(settings, hierarchy, level, start, steps_per_epoch=steps_per_epoch) for level in hierarchy
    }
    always = step >= 0  # of the type that the others have
    return {label: moves.get(label.split("/")[0], always) & (label not in settings.frozen) for label in groups}


def edge_weight_at(weight: Number, step: Number, num_steps: int) -> Number:
    """Return a loss weight on its way from `weight` at step 0 to 1 at `num_steps`, on a line.

    The original moves once per epoch and rounds to 3 digits each time: its weights of epoch e + 1
    are `round(edge_weight_at(w, 1, epochs - e), 3)` of those of epoch e, off this line by < 0.003.
    """
    num_steps = max(num_steps, 1)
    step = jnp.minimum(step, num_steps) if isinstance(step, jax.Array) else min(step, num_steps)
    return weight + (1.0 - weight) * step / num_steps


def is_logged(updates_done: Number, interval: int, num_steps: int) -> bool | jax.Array:
    """Tell whether the step that made the count `updates_done` is logged: the first, every n-th, the last."""
    return (updates_done == 1) | (updates_done % interval == 0) | (updates_done == num_steps)


def validation_epochs(kind: str, interval: float, num_epochs: int) -> tuple[int, ...]:
    """Return the epochs, counted from 1, after which the levels are evaluated; the original's rule.

    `linear`: every `interval` epochs; the last epoch only if its turn comes. `exponential`: the whole
    parts of 1, i, i², ... and always the last epoch; with a factor of 1 that is the first and the last.
    An interval of 0 means never.
    """
    if interval == 0 or num_epochs < 1:
        return ()
    if kind == "linear":
        interval = max(interval, 1.0)  # below 1 every epoch is due
        return tuple(math.floor(n * interval) for n in range(1, int(num_epochs / interval) + 1))
    epochs, power = {1, num_epochs}, interval
    while interval > 1 and power < num_epochs:
        epochs.add(math.floor(power))
        # A factor just above 1 would need billions of turns: those that stay in the same epoch are taken at once.
        turns = math.log((math.floor(power) + 1) / power) / math.log(interval)
        power *= interval ** (math.floor(turns) - 1) if turns > 100 else interval
    return tuple(sorted(epochs))


def _update_start(settings: OptimizerSettings, step: Number) -> Number:
    """Step of an update's first mini-batch: rates and turns hold for the whole update."""
    return step - step % settings.accumulation_steps
