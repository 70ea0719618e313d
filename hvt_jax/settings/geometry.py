"""How many tokens the levels have on videos of a given size, and which sizes fit."""

from hvt_jax.hierarchy import Hierarchy, level_below
from hvt_jax.settings.model_settings import ModelSettings
from hvt_jax.settings.reader import SettingsError


def patch_pixels(settings: ModelSettings) -> int:
    """Return how many pixels of the video a patch is wide and high."""
    return settings.stem.patch_size * (4 if settings.stem.kind == "conv" else 1)


def model_hierarchy(settings: ModelSettings, *, num_frames: int, height: int, width: int) -> Hierarchy:
    """Return the hierarchy of the model on videos [B, num_frames, height, width, 3], still without edges.

    Raises:
      SettingsError: naming the sizes that do not divide and the nearest that do.
    """
    scale = patch_pixels(settings)
    for name, size in (("height", height), ("width", width)):
        if size % scale or size < scale:
            below, above = size // scale * scale, (size // scale + 1) * scale
            near = f"{below} or {above}" if below else f"{above}"
            raise SettingsError(
                f"data.{name} = {size} is no multiple of {scale} "
                f"(model.stem.patch_size {settings.stem.patch_size}, {settings.stem.kind} stem); use {near}"
            )
    clips = settings.num_clips if "sequence" in settings.levels else 1
    if "sequence" in settings.levels and clips < 2:
        raise SettingsError(f"model.num_clips = {clips}, but the level `sequence` needs at least 2 clips")
    if num_frames % clips or num_frames < clips:
        raise SettingsError(f"data.num_frames = {num_frames} cannot be cut into model.num_clips = {clips} equal clips")
    causal, patches = settings.causal_levels, (height // scale) * (width // scale)
    hierarchy = Hierarchy(settings.levels, clips, num_frames // clips, patches, causal)
    for level in causal:
        if hierarchy.num_members(level) < 2:
            raise SettingsError(
                f"model.{level}.causal = True, but a {level} has only 1 {level_below(level)} here, so nothing follows "
                f"it that could be predicted; use more of them or causal = False"
            )
    return hierarchy
