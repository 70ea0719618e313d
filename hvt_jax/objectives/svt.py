"""Method `svt`: views of other times, lengths and places name the same prototypes as a teacher's global view."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from hvt_jax.data import views
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.extended import Extended, PrototypeHead, aside
from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import OtherSize
from hvt_jax.model.sizes import other_size
from hvt_jax.objectives import end_to_end, teacher
from hvt_jax.objectives.distances import masked_mean
from hvt_jax.objectives.method import Inputs, Outcome, ViewPlan, ViewSize, counted_videos
from hvt_jax.settings import Settings, SvtSettings

_GLOBAL = 2  # views
_EPSILON = 1e-12


class SvtLosses(NamedTuple):
    """The loss of a step, the teacher's mean cosines [K], and the entropy of its mean answer, 1 if it is even."""

    total: jax.Array
    mean: jax.Array
    entropy: jax.Array


class Svt(end_to_end.EndToEnd):
    """Self-supervised video transformer (Ranasinghe et al. 2022): DINO (Caron et al. 2021) on views of space and time.

    The student sees two global views and some local ones, shorter, smaller and of less of the frame; the teacher, its
    moving average, the global ones. Every view of the student must name the prototypes that the teacher names for
    each *other* global view, whose answers are centred and sharpened. Not taken over: that the prototypes stand still
    in the first epoch.
    """

    parts = ("head",)
    what = "local and global views name a teacher's prototypes (SVT)"

    def views(self, settings: Settings) -> ViewPlan:
        """Return two global views and the local ones; all are cut out of whole frames on the device."""
        data, svt = settings.data, settings.svt
        sizes = {
            "global": ViewSize(data.height, data.width, svt.global_area),
            "local": ViewSize(*end_to_end.smaller_size(settings, svt.local_size), svt.local_area),
        }
        local = end_to_end.full_view(data, length=svt.local_frames, stride=svt.local_stride)
        plan = views.MultiCrop(end_to_end.full_view(data), _GLOBAL, local, svt.num_local)
        return ViewPlan(plan, sizes)

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy; raises SettingsError for local views that it cannot take."""
        hierarchy = super().predictions(settings, hierarchy)
        _local_hierarchy(settings)
        return hierarchy

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Extended:
        """Return the pyramid with the head."""
        del num_classes
        svt, width = settings.svt, end_to_end.top_width(settings, hierarchy)
        dtype = jnp.dtype(settings.model.compute_dtype)
        head = lambda rngs: PrototypeHead(width, svt.hidden, svt.bottleneck, svt.prototypes, dtype=dtype, rngs=rngs)  # noqa: E731
        return Extended(settings.model, hierarchy, {"head": head}, rngs=rngs)

    def initial_memory(self, settings: Settings, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the teacher and the mean that is taken off its cosines."""
        return {"params": teacher.first_teacher(params), "center": jnp.zeros(settings.svt.prototypes)}

    def next_memory(
        self, settings: Settings, memory: dict[str, Any], params: Mapping[str, Any], losses: Any, progress: jax.Array
    ) -> dict[str, Any]:
        """Return the teacher, moved towards the student, and the mean, moved towards that of the batch."""
        kept = settings.svt.center_momentum
        moved = teacher.follow(memory["params"], params, teacher.cosine_to_one(settings.svt.momentum, progress))
        return {"params": moved, "center": kept * memory["center"] + (1 - kept) * losses.mean}

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the cross-entropy of every view of the student with every other global view of the teacher."""
        svt, counted = settings.svt, counted_videos(inputs.valid, inputs.frame_valid)
        keys = (None, None) if key is None else jax.random.split(key)
        wide = inputs.video["global"]
        # The teacher's head and levels are its own, running statistics are the student's: it uses the batch's.
        wanted_VBK, _ = _cosines(inputs.teacher, wide, inputs.valid, None)
        wanted_VBK = jax.lax.stop_gradient(wanted_VBK)
        found, outputs = _cosines(model, wide, inputs.valid, keys[0])
        local = _local_hierarchy(settings)
        sizes = (settings.data.height, settings.data.width), end_to_end.smaller_size(settings, svt.local_size)
        size = other_size(model, local, tuple(end_to_end.patch_grid(settings, pixels) for pixels in sizes))
        # Local views are no videos as they are evaluated, so they leave the running statistics alone.
        small, _ = _cosines(aside(model), inputs.video["local"], inputs.valid, keys[1], size)
        found = jnp.concatenate([found, small])
        answers_VBK = jax.nn.softmax((wanted_VBK - inputs.memory["center"]) / _temperature(svt, inputs.progress))
        given_WBK = jax.nn.log_softmax(found / svt.student_temperature)
        pairs_VWB = -jnp.einsum("vbk,wbk->vwb", answers_VBK, given_WBK)
        others_VW = 1 - jnp.eye(_GLOBAL, len(found))
        rows_B = (pairs_VWB * others_VW[..., None]).sum((0, 1)) / others_VW.sum()
        usual_K = _mean_video(answers_VBK, counted)
        entropy = -(usual_K * jnp.log(usual_K + _EPSILON)).sum() / jnp.log(svt.prototypes)
        losses = SvtLosses(masked_mean(rows_B, counted), _mean_video(wanted_VBK, counted), entropy)
        return Outcome(losses, outputs, {})

    def metrics(self, losses: SvtLosses) -> dict[str, jax.Array]:
        """Return how even the teacher's mean answer is: near 0 it names one prototype for all."""
        return {"train/teacher_entropy": losses.entropy}


def _local_hierarchy(settings: Settings) -> Hierarchy:
    size = end_to_end.smaller_size(settings, settings.svt.local_size)
    return end_to_end.view_hierarchy(settings, settings.svt.local_frames, size, "svt.local_frames")


def _temperature(svt: SvtSettings, progress: jax.Array | float) -> jax.Array:
    first, last = svt.teacher_temperature
    return first + (last - first) * jnp.minimum(progress / max(svt.teacher_warmup, _EPSILON), 1.0)


def _cosines(
    model: Extended, video: jax.Array, valid: jax.Array | None, key: jax.Array | None, size: OtherSize | None = None
) -> tuple[jax.Array, dict[str, LevelOutput]]:
    """Return cosines with the prototypes, [V, B, K], of views [B, V, T, Y, X, 3], and the outputs for the first one.

    All views of a size pass the model as one batch, so that BatchNorm sees them together.
    """
    count = video.shape[1]
    valid = None if valid is None else jnp.tile(valid, count)
    video = rearrange(video, "b v t y x c -> (v b) t y x c")
    outputs = model(video, train=True, valid=valid, key=key, isolated=False, last_state=-1, size=size)
    tokens = outputs[model.hierarchy.levels[-1]].tokens.mean(1, keepdims=True)
    cosines_VBK = rearrange(model.head(tokens, train=True), "(v b) 1 k -> v b k", v=count)
    return cosines_VBK, jax.tree.map(lambda x: x[: len(x) // count], outputs)


def _mean_video(x_VBK: jax.Array, counted: jax.Array | None) -> jax.Array:
    """Return the mean over views and the videos that count, [K]; 0 if none does."""
    weight_B = jnp.ones(x_VBK.shape[1]) if counted is None else counted.astype(x_VBK.dtype)
    return jnp.einsum("vbk,b->k", x_VBK, weight_B) / jnp.maximum(len(x_VBK) * weight_B.sum(), 1)
