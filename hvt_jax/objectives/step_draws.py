"""All that a step draws, from one key: what every edge predicts, and what competes with it."""

from typing import NamedTuple

import jax

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.objectives import draws
from hvt_jax.objectives.change import patch_change
from hvt_jax.settings import Settings
from hvt_jax.settings.geometry import patch_pixels

_PLACES_OF_IMAGES = 16  # where there are no other times, places compete whatever the config says


class StepDraws(NamedTuple):
    """What a step draws.

    Attributes:
      edges: the draw of every edge that draws, by its name.
      candidates: what competes with the targets; None unless they are chosen.
      change: [B, T, P], see `objectives.change`; None where patches are asked evenly.
    """

    edges: dict[str, draws.Draw]
    candidates: draws.Candidates | None
    change: jax.Array | None


def draw(
    settings: Settings,
    hierarchy: Hierarchy,
    key: jax.Array,
    video: jax.Array,
    frame_valid: jax.Array | None = None,
) -> StepDraws:
    """Return what every edge is asked; a pure function of `key` and, where patches are asked by it, of the video.

    Args:
      settings: of the run.
      hierarchy: its sizes and edges.
      key: random key of the step.
      video: float [B, T, Y, X, 3], normalised.
      frame_valid: bool [B, T], or None for all.
    """
    objective = settings.objective
    batch = video.shape[0]
    change = None
    if objective.patch_targets == "change" and "patch" in hierarchy.levels:
        change = patch_change(video, patch_pixels(settings.model), frame_valid, hierarchy.frame_step)
    asked = draws.draw_step(key, hierarchy, batch=batch, std_divisor=objective.std_divisor, change=change)
    if objective.distance != "contrastive":
        return StepDraws(asked, None, change)
    candidates = draws.draw_candidates(
        jax.random.fold_in(key, len(hierarchy.edges)),
        hierarchy,
        batch=batch,
        places=max(objective.place_candidates, _PLACES_OF_IMAGES if hierarchy.num_frames == 1 else 0),
        tokens=objective.batch_candidates,
        for_every_edge=objective.batch_candidates_weight > 0,
    )
    return StepDraws(asked, candidates, change)
