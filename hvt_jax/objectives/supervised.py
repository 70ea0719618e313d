"""Method `supervised`, the ceiling: the whole hierarchy, or S3D, at once, by a linear head on its top level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.classifier import CLASSIFIERS
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.objectives.distances import masked_mean
from hvt_jax.objectives.method import Inputs, Method, Outcome, counted_videos
from hvt_jax.settings import Settings

_LAST_STATE = -1  # a causal level is read at its last state, which has seen all members
_SOME_CLASSES = 2  # that the model is built with where nobody has counted them


def encode(
    pyramid: Pyramid,
    video: jax.Array,
    *,
    train: bool,
    valid: jax.Array | None = None,
    key: jax.Array | None = None,
) -> dict[str, LevelOutput]:
    """Return the output of every level; no gradient is stopped anywhere.

    Args:
      pyramid: the model; the prediction edges, if it has any, are not asked.
      video: float [B, T, Y, X, 3], normalised.
      train: use batch statistics and update the running ones.
      valid: bool [B]; examples that are False do not count in the statistics.
      key: for dropout; None switches it off.
    """
    return pyramid(video, train=train, valid=valid, key=key, isolated=False, last_state=_LAST_STATE)


def log_probabilities(head: Callable[[jax.Array], jax.Array], top: LevelOutput) -> jax.Array:
    """Return log probabilities [B, classes] of the classes, at least in float32.

    Args:
      head: a map [B, D] -> [B, classes], such as a linear layer.
      top: of the top level, from `encode`; where a video has several tokens, it is their mean that is looked at.
    """
    logits_BK = head(top.tokens.mean(1))
    return jax.nn.log_softmax(logits_BK.astype(jnp.promote_types(logits_BK.dtype, jnp.float32)))


def negative_log_likelihood(log_probs: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Return minus the mean log probability of the true classes over the valid videos; 0 if none is.

    Args:
      log_probs: [B, classes], from `log_probabilities`.
      labels: int [B]; of a video that is not valid it may be anything.
      valid: bool [B], or None for all.
    """
    # A label outside the classes (-1 of a damaged video) would gather NaN in some modes: clip, then mask.
    chosen_B = jnp.take_along_axis(log_probs, jnp.clip(labels, 0, log_probs.shape[-1] - 1)[:, None], axis=1)[:, 0]
    return -masked_mean(chosen_B, valid)


class SupervisedLosses(NamedTuple):
    """Losses of a step: the mean negative log likelihood, and the share of right answers in %."""

    total: jax.Array
    top1: jax.Array


class Supervised(Method):
    """All levels and the head by the class of the video.

    A video without a label (below 0), or of which most is padding, counts as one that is not valid, but for the
    statistics.
    """

    batch_fields = ("video", "valid", "label")
    last_state = _LAST_STATE
    borders = "method supervised trains end to end, so the loss of the head moves every level"

    def summary(self, settings: Settings, hierarchy: Hierarchy) -> str:
        """Return one line that says what is trained, and by what."""
        labels = f"the labels {settings.data.label!r}" if settings.data.label else "the first label set"
        top = hierarchy.levels[-1]
        token = f"{top} token" if hierarchy.num_tokens(top) == 1 else f"mean {top} token"
        return f"all levels end to end by {labels}, cross-entropy of a linear head on the {token}; no predictions"

    def groups(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the levels and the head."""
        return (*hierarchy, "head")

    def owners(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the head, whose loss is the only one."""
        del hierarchy
        return ("head",)

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Pyramid:
        """Return the pyramid, or S3D, with a head instead of predictors."""
        classifier = CLASSIFIERS[settings.model.encoder]
        return classifier(settings.model, hierarchy, num_classes or _SOME_CLASSES, rngs=rngs)

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the loss of the head; none of the settings is read."""
        del settings
        outputs = encode(model, inputs.video, train=True, valid=inputs.valid, key=key)
        log_probs = log_probabilities(model.head, _top(model, outputs))
        counts = inputs.labels >= 0
        if (counted := counted_videos(inputs.valid, inputs.frame_valid)) is not None:
            counts &= counted
        right = (log_probs.argmax(-1) == inputs.labels).astype(log_probs.dtype)
        loss = negative_log_likelihood(log_probs, inputs.labels, counts)
        return Outcome(SupervisedLosses(loss, 100 * masked_mean(right, counts)), outputs, {})

    def metrics(self, losses: SupervisedLosses) -> dict[str, jax.Array]:
        """Return the accuracy on the batch, in %."""
        return {"train/top1": losses.top1}

    def owned_losses(self, losses: SupervisedLosses) -> dict[str, jax.Array]:
        """Return the loss of the head."""
        return {"head": losses.total}

    def predicted_classes(self, model: Any, outputs: dict[str, LevelOutput]) -> jax.Array | None:
        """Return the class that the head names, int32 [B]."""
        return log_probabilities(model.head, _top(model, outputs)).argmax(-1).astype(jnp.int32)


def _top(pyramid: Pyramid, outputs: dict[str, LevelOutput]) -> LevelOutput:
    return outputs[pyramid.hierarchy.levels[-1]]
