"""Method `vicreg`: two windows of a video, embedded by the whole hierarchy, should agree (Bardes et al. 2022)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hvt_jax.data import views
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.extended import Extended, make_mlp
from hvt_jax.model.level import LevelOutput
from hvt_jax.objectives.distances import vicreg
from hvt_jax.objectives.end_to_end import EndToEnd, full_size, full_view, top_width
from hvt_jax.objectives.method import Inputs, Outcome, ViewPlan, counted_videos
from hvt_jax.settings import ObjectiveSettings, Settings


class SiameseLoss(NamedTuple):
    """Loss of a step, the embeddings [B, 1, D] of the two views, and the levels' outputs for the first one."""

    total: jax.Array
    embeddings: tuple[jax.Array, jax.Array]
    outputs: dict[str, LevelOutput]


def siamese_loss(
    pyramid,
    projector,
    pair: tuple[jax.Array, jax.Array],
    settings: ObjectiveSettings,
    *,
    train: bool,
    valid: jax.Array | None = None,
    keys: tuple[jax.Array | None, jax.Array | None] = (None, None),
) -> SiameseLoss:
    """Return VICReg's loss between two views of the same videos, with gradients into both.

    BatchNorm takes the statistics of each view apart, and its running ones move twice: by the first
    view, then by the second. Source: VICReg, Bardes et al. 2022, equation 6. The original divides the
    covariance by the configured batch size less one, whatever the batch holds; here it is the number of
    valid videos less one, which is the same on every full batch.

    Args:
      pyramid: the model; its prediction edges, if it has any, are not asked.
      projector: an MLP of the top level's width, see `extended.make_mlp`.
      pair: two videos [B, T, Y, X, 3], normalised.
      settings: invariance, variance and covariance weights; its `distance` is not read.
      train: use batch statistics and update the running ones.
      valid: bool [B]; examples that are False count neither in the statistics nor in the loss.
      keys: for dropout in each view.
    """
    found = []
    for video, key in zip(pair, keys, strict=True):
        outputs = pyramid(video, train=train, valid=valid, key=key, isolated=False, last_state=-1)
        tokens = outputs[pyramid.hierarchy.levels[-1]].tokens
        found.append((outputs, projector(tokens, {}, train=train, valid=valid)))
    embeddings = found[0][1], found[1][1]
    return SiameseLoss(vicreg(settings, *embeddings, valid), embeddings, found[0][0])


class Vicreg(EndToEnd):
    """Two windows of a video, each changed by itself, are embedded alike, and videos apart.

    Its projector is as wide over the top token as the paper's 8,192 over the 2,048 of its encoder; GELU for ReLU.
    """

    parts = ("projector",)
    what = "two windows of a video embedded alike, the whole batch spread (VICReg)"

    def views(self, settings: Settings) -> ViewPlan:
        """Return two windows of the size that `data` says."""
        distances = settings.vicreg.min_distance, settings.vicreg.max_distance
        return ViewPlan(views.Pair(full_view(settings.data), *distances), {"": full_size(settings.data)})

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Extended:
        """Return the pyramid with the projector."""
        del num_classes
        width, asked = top_width(settings, hierarchy), settings.vicreg
        wide = round(width * asked.projector_expansion)
        options = {"norm": "batch", "dtype": jnp.dtype(settings.model.compute_dtype)}
        hidden = (wide,) * (asked.projector_layers - 1)
        projector = lambda rngs: make_mlp(width, hidden, wide, **options, rngs=rngs)  # noqa: E731
        return Extended(settings.model, hierarchy, {"projector": projector}, rngs=rngs)

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the loss between the windows, video [B, 2, T, Y, X, 3]."""
        keys = (None, None) if key is None else jax.random.split(key)
        pair = inputs.video[:, 0], inputs.video[:, 1]
        valid = counted_videos(inputs.valid, inputs.frame_valid)
        loss = functools.partial(siamese_loss, model, model.projector, pair, settings.objective)
        found = loss(train=True, valid=valid, keys=tuple(keys))
        return Outcome(found._replace(outputs={}), found.outputs, {})
