"""What a method of training decides, so that the step, the optimizer and the commands know none by name."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.objectives.local import Prediction
from hvt_jax.objectives.step_draws import StepDraws
from hvt_jax.settings import ObjectiveSettings, Settings


class Inputs(NamedTuple):
    """What the losses of a step are made from, beside the model.

    Attributes:
      video: float [B, T, Y, X, 3], augmented and normalised.
      valid: bool [B], or None for all; videos that are not valid count in no loss and no statistics.
      frame_valid: bool [B, T], frames of the hierarchy that are pictures and no padding, or None for all.
      labels: int [B], of the label set evaluated first, -1 where there is none; None unless the method asks for them.
      draws: what every edge is asked.
      edge_weights: weight of every edge now.
    """

    video: jax.Array
    valid: jax.Array | None
    frame_valid: jax.Array | None
    labels: jax.Array | None
    draws: StepDraws
    edge_weights: Mapping[str, jax.Array | float]


class Outcome(NamedTuple):
    """What a method makes of a step.

    Attributes:
      losses: a pytree of the method's own whose attribute `total`, a scalar, is what gradients are taken of.
      outputs: of every trained level, for the monitors.
      predictions: of every edge, for the monitors; {} without edges.
    """

    losses: Any
    outputs: dict[str, LevelOutput]
    predictions: dict[str, Prediction]


class Method(abc.ABC):
    """A method of training. As it stands here one that trains end to end and predicts nothing.

    Stateless: what is static about a run is in its settings, its hierarchy and the number of classes. A new method is
    one file with a subclass, a line in `methods.METHODS` and a word in `settings.Method`.

    Attributes:
      batch_fields: what of a batch the step gets.
      last_state: which state of a causal level is its token, see `model.level`; in evaluation, too.
      borders: why gradients cross the borders between levels by design, for the audit; "" if they must not.
    """

    batch_fields: tuple[str, ...] = ("video", "valid")
    last_state: int = -1
    borders: str = ""

    @abc.abstractmethod
    def summary(self, settings: Settings, hierarchy: Hierarchy) -> str:
        """Return one line that says what is trained, and by what."""

    @abc.abstractmethod
    def groups(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parameter groups, its levels lowest first; what each holds: `groups.parameter_labels`."""

    @abc.abstractmethod
    def owners(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the groups that have losses of their own, see `owned_losses`."""

    def reach(self, owner: str, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the groups that the losses of `owner` are meant to move; the audit calls all others a leak."""
        del owner
        return self.groups(hierarchy)

    @abc.abstractmethod
    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Pyramid:
        """Return a fresh model; `num_classes` is 0 where nobody knows it yet."""

    @abc.abstractmethod
    def losses(self, model: Any, inputs: Inputs, settings: ObjectiveSettings, *, key: jax.Array | None) -> Outcome:
        """Return the losses of a training step; `key` is for dropout, None switches it off."""

    @abc.abstractmethod
    def metrics(self, losses: Any) -> dict[str, jax.Array]:
        """Return `train/...` scalars beside `train/total`."""

    @abc.abstractmethod
    def owned_losses(self, losses: Any) -> dict[str, jax.Array]:
        """Return the unweighted losses of every owner; the audit asks where their gradients go."""

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy with the edges that are trained on; it comes without any."""
        del settings
        return hierarchy

    def predicted_classes(self, model: Any, outputs: dict[str, LevelOutput]) -> jax.Array | None:
        """Return the class that the model itself names for each video, int32 [B]; None if it names none."""
        del model, outputs
        return None
