"""What a method of training decides, so that the step, the optimizer and the commands know none by name."""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from hvt_jax.data import sampling
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.objectives.local import Prediction
from hvt_jax.settings import Settings


class Inputs(NamedTuple):
    """What the losses of a step are made from, beside the model.

    Attributes:
      video: float [B, T, Y, X, 3], augmented and normalised; of a method with views float [B, V, T, Y, X, 3], or a
        dict of these by group.
      valid: bool [B], or None for all; videos that are not valid count in no loss and no statistics.
      frame_valid: bool [B, T], frames that are pictures and no padding, or None for all; of views as `video`.
      labels: int [B], of the label set evaluated first, -1 where there is none; None unless the method asks for them.
      draws: what the method drew for this step.
      edge_weights: weight of every edge now.
      progress: share of the run that is done, 0 to 1.
      teacher: the model with the parameters of the teacher; None without one.
      memory: what the method keeps from step to step, see `Method.initial_memory`.
    """

    video: Any
    valid: jax.Array | None
    frame_valid: Any
    labels: jax.Array | None
    draws: Any
    edge_weights: Mapping[str, jax.Array | float]
    progress: jax.Array | float = 0.0
    teacher: Any = None
    memory: Mapping[str, Any] = MappingProxyType({})


class ViewSize(NamedTuple):
    """What the device makes of a view: rows, columns, and the share of the frame it shows; None: as `augmentation`."""

    height: int
    width: int
    area: tuple[float, ...] | None = None


class ViewPlan(NamedTuple):
    """What views of a video a step sees: how they are cut out of it, and the size of each group's."""

    plan: sampling.Plan
    sizes: dict[str, ViewSize]


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
    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the losses of a training step; `key` is for dropout, None switches it off."""

    @abc.abstractmethod
    def metrics(self, losses: Any) -> dict[str, jax.Array]:
        """Return `train/...` scalars beside `train/total`."""

    @abc.abstractmethod
    def owned_losses(self, losses: Any) -> dict[str, jax.Array]:
        """Return the unweighted losses of every owner; the audit asks where their gradients go."""

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy with the edges that are trained on; it comes without any.

        Raises:
          SettingsError: for sizes that the method cannot be trained with.
        """
        del settings
        return hierarchy

    def views(self, settings: Settings) -> ViewPlan | None:
        """Return what views of a video a step sees; None: one window, as `data` says."""
        del settings
        return None

    def draw(
        self, settings: Settings, hierarchy: Hierarchy, key: jax.Array, video: Any, frame_valid: Any = None
    ) -> Any:
        """Return what a step draws, a pytree of arrays: a pure function of the key and of the prepared videos."""
        del settings, hierarchy, key, video, frame_valid
        return None

    def initial_memory(self, settings: Settings, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept from step to step beside parameters and statistics, {} for nothing.

        Under `params` lie the parameters of a teacher: those parts of the model that it has of its own.
        """
        del settings, params
        return {}

    def next_memory(
        self, settings: Settings, memory: dict[str, Any], params: Mapping[str, Any], losses: Any, progress: jax.Array
    ) -> dict[str, Any]:
        """Return the memory after a step that led to `params` and had `losses`, `progress` being 0 to 1."""
        del settings, params, losses, progress
        return memory

    def predicted_classes(self, model: Any, outputs: dict[str, LevelOutput]) -> jax.Array | None:
        """Return the class that the model itself names for each video, int32 [B]; None if it names none."""
        del model, outputs
        return None


def counted_videos(valid: jax.Array | None, frame_valid: Any) -> jax.Array | None:
    """Return which videos count where a video is embedded as a whole, bool [B]: those at least half of pictures.

    Args:
      valid: bool [B], or None for all.
      frame_valid: bool [B, ..., T], frames that are pictures and no padding, a dict of these by group of views, or
        None for all; every view of a video must be at least half of pictures.
    """
    for own in jax.tree.leaves(frame_valid):
        mostly = 2 * own.sum(-1) >= own.shape[-1]
        mostly = mostly.reshape(len(mostly), -1).all(-1)
        valid = mostly if valid is None else valid & mostly
    return valid
