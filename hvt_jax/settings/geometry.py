"""How many tokens the levels have on videos of a given size, and which sizes fit."""

from hvt_jax.hierarchy import SINGLE, Hierarchy, level_below
from hvt_jax.settings.model_settings import ModelSettings
from hvt_jax.settings.reader import SettingsError

S3D_FRAMES, S3D_PIXELS, S3D_WIDTH = 8, 32, 1024  # frames and pixels, to a side, of a cell of S3D's map; its channels
_CELL_PIXELS = {"linear": 1, "conv": 4, "s3d": S3D_PIXELS}
# What S3D fixes of the one level that it is.
_S3D_LEVEL = {"width": S3D_WIDTH, "output_norm": "none", "causal": False}


def patch_pixels(settings: ModelSettings) -> int:
    """Return how many pixels of the video a patch is wide and high."""
    return settings.stem.patch_size * _CELL_PIXELS[settings.stem.kind]


def model_hierarchy(settings: ModelSettings, *, num_frames: int, height: int, width: int) -> Hierarchy:
    """Return the hierarchy of the model on videos [B, num_frames, height, width, 3], still without edges.

    Raises:
      SettingsError: naming the sizes that do not divide and the nearest that do.
    """
    if settings.encoder == "s3d":
        return _s3d_hierarchy(settings, num_frames, height, width)
    if settings.levels == SINGLE:
        raise SettingsError("model.hierarchy = clip is what model.encoder = 's3d' has; use frame-clip, or that encoder")
    stem, scale = settings.stem, patch_pixels(settings)
    if stem.kind == "linear" and not stem.trainable:
        raise SettingsError("model.stem.trainable = False keeps convolutions as they are, and the linear stem has none")
    for name, size in (("height", height), ("width", width)):
        _check_multiple(f"data.{name}", size, scale, f"model.stem.patch_size {stem.patch_size}, {stem.kind} stem")
    step = S3D_FRAMES if stem.kind == "s3d" else 1
    _check_multiple("data.num_frames", num_frames, step, "the s3d stem makes one frame of so many")
    clips = settings.num_clips if "sequence" in settings.levels else 1
    if "sequence" in settings.levels and clips < 2:
        raise SettingsError(f"model.num_clips = {clips}, but the level `sequence` needs at least 2 clips")
    frames = num_frames // step
    if frames % clips or frames < clips:
        made = f", of which the s3d stem makes {frames}," if step > 1 else ""
        raise SettingsError(
            f"data.num_frames = {num_frames}{made} cannot be cut into model.num_clips = {clips} equal clips"
        )
    causal, patches = settings.causal_levels, (height // scale) * (width // scale)
    hierarchy = Hierarchy(settings.levels, clips, frames // clips, patches, causal, frame_step=step)
    for level in causal:
        if hierarchy.num_members(level) < 2:
            raise SettingsError(
                f"model.{level}.causal = True, but a {level} has only 1 {level_below(level)} here, so nothing follows "
                f"it that could be predicted; use more of them or causal = False"
            )
    return hierarchy


def _s3d_hierarchy(settings: ModelSettings, num_frames: int, height: int, width: int) -> Hierarchy:
    """Return the hierarchy of S3D alone: one clip of all frames, one token."""
    wrong = {} if settings.levels == SINGLE else {"model.hierarchy": SINGLE[0]}
    level = getattr(settings, SINGLE[0])
    wrong |= {f"model.{SINGLE[0]}.{name}": v for name, v in _S3D_LEVEL.items() if getattr(level, name) != v}
    if wrong:
        fields = " ".join(f"--config.{name}={value}" for name, value in wrong.items())
        raise SettingsError(f"model.encoder = 's3d' is one level of {S3D_WIDTH} pooled features; set {fields}")
    sizes = {"num_frames": (num_frames, S3D_FRAMES), "height": (height, S3D_PIXELS), "width": (width, S3D_PIXELS)}
    for name, (size, step) in sizes.items():
        _check_multiple(f"data.{name}", size, step, "model.encoder 's3d' shrinks it so many times")
    return Hierarchy(SINGLE, 1, num_frames, 1)


def _check_multiple(field: str, size: int, step: int, reason: str) -> None:
    if size % step or size < step:
        below, above = size // step * step, (size // step + 1) * step
        near = f"{below} or {above}" if below else f"{above}"
        raise SettingsError(f"{field} = {size} is no multiple of {step} ({reason}); use {near}")
