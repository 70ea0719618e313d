"""Method `brave`: a narrow view of a video predicts a broad one, and back (Recasens et al. 2021)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hvt_jax.data import views
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.extended import Extended, aside, make_mlp
from hvt_jax.model.sizes import other_size
from hvt_jax.objectives import end_to_end
from hvt_jax.objectives.distances import cosine_similarity, masked_mean
from hvt_jax.objectives.method import Inputs, Outcome, ViewPlan, ViewSize, counted_videos
from hvt_jax.settings import Settings, SettingsError

_VIEWS = ("narrow", "broad")


class BraveLosses(NamedTuple):
    """The loss of a step, and its halves: how far the prediction of a view is from the other one, 0 to 4."""

    total: jax.Array
    narrow: jax.Array
    broad: jax.Array


class Brave(end_to_end.EndToEnd):
    """BraVe: each view has its projector and predictor, and predicts the other's projection, which is stopped.

    The paper gives each view an encoder of its own, too; here one encoder sees both, as it is what is compared. Its
    positions are resampled for the broad view, which is longer, coarser in time and smaller.
    """

    parts = tuple(f"{view}_{part}" for view in _VIEWS for part in ("projector", "predictor"))
    what = "a narrow and a broad view predict each other (BraVe)"

    def views(self, settings: Settings) -> ViewPlan:
        """Return the narrow view, of `data.num_frames`, and the broad one around it."""
        data, brave = settings.data, settings.brave
        narrow = end_to_end.full_view(data, stride=brave.narrow_stride)
        broad = end_to_end.full_view(data, length=brave.broad_frames, stride=brave.broad_stride)
        sizes = {
            "narrow": end_to_end.full_size(data),
            "broad": ViewSize(*end_to_end.smaller_size(settings, brave.broad_size)),
        }
        return ViewPlan(views.NarrowBroad(narrow, broad), sizes)

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy; raises SettingsError for views that it cannot take."""
        hierarchy = super().predictions(settings, hierarchy)
        _broad_hierarchy(settings)
        try:
            self.views(settings)
        except ValueError as error:
            raise SettingsError(
                f"config.brave: {error}; raise broad_frames or broad_stride, or lower narrow_stride"
            ) from error
        return hierarchy

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Extended:
        """Return the pyramid with a projector and a predictor for each view."""
        del num_classes
        brave, width = settings.brave, end_to_end.top_width(settings, hierarchy)
        options = {"norm": "batch", "dtype": jnp.dtype(settings.model.compute_dtype)}

        def part(name: str):
            width_in = width if name.endswith("projector") else brave.width
            return lambda rngs: make_mlp(width_in, (brave.hidden,), brave.width, **options, rngs=rngs)

        return Extended(settings.model, hierarchy, {name: part(name) for name in self.parts}, rngs=rngs)

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return how far the predictions are from the other view's projections, both of length 1."""
        counted, options = counted_videos(inputs.valid, inputs.frame_valid), {"train": True, "valid": inputs.valid}
        keys = (None, None) if key is None else jax.random.split(key)
        data = settings.data
        grids = ((data.height, data.width), end_to_end.smaller_size(settings, settings.brave.broad_size))
        grids = tuple(end_to_end.patch_grid(settings, size) for size in grids)
        sizes = {"narrow": None, "broad": other_size(model, _broad_hierarchy(settings), grids)}
        # The broad view is no video as they are evaluated, so it leaves the running statistics alone.
        encoders, outputs, projected, predicted = {"narrow": model, "broad": aside(model)}, {}, {}, {}
        for view, view_key in zip(_VIEWS, keys, strict=True):
            ends = {"key": view_key, "isolated": False, "last_state": -1, "size": sizes[view]}
            outputs[view] = encoders[view](inputs.video[view][:, 0], **options, **ends)
            tokens = outputs[view][model.hierarchy.levels[-1]].tokens.mean(1, keepdims=True)
            projected[view] = getattr(model, f"{view}_projector")(tokens, {}, **options)
            predicted[view] = getattr(model, f"{view}_predictor")(projected[view], {}, **options)
        halves = []
        for view, other in (_VIEWS, _VIEWS[::-1]):
            wanted = jax.lax.stop_gradient(projected[other]).astype(jnp.float32)
            # Of unit vectors the squared distance.
            halves.append(masked_mean(2 - 2 * cosine_similarity(predicted[view].astype(jnp.float32), wanted), counted))
        return Outcome(BraveLosses(sum(halves), *halves), outputs["narrow"], {})

    def metrics(self, losses: BraveLosses) -> dict[str, jax.Array]:
        """Return both halves."""
        return {"train/narrow_to_broad": losses.narrow, "train/broad_to_narrow": losses.broad}


def _broad_hierarchy(settings: Settings) -> Hierarchy:
    brave = settings.brave
    size = end_to_end.smaller_size(settings, brave.broad_size)
    return end_to_end.view_hierarchy(settings, brave.broad_frames, size, "brave.broad_frames")
