"""The whole hierarchy: the stem and its levels, with gradients stopped at every border."""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax import shapes
from hvt_jax.hierarchy import LEVELS, Hierarchy, encoded_levels, level_below
from hvt_jax.model.level import Level, LevelOutput
from hvt_jax.model.predictor import Predictor
from hvt_jax.model.stem import Stem
from hvt_jax.settings.model_settings import ModelSettings


class PatchLevel(nnx.Module):
    """The patch level owns predictors only; its tokens are the stem's."""


class Pyramid(nnx.Module):
    """Stem -> levels of the hierarchy -> predictors.

    Parameter paths read `stem/...`, `levels/<level>/...` and `levels/<level>/predictors/<relation>/...`:
    an edge's predictor belongs to its source level. The stem trains with the lowest trained level.
    Without edges it has no predictors.
    """

    def __init__(self, settings: ModelSettings, hierarchy: Hierarchy, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(settings.compute_dtype)
        self.hierarchy = hierarchy
        self.stem = Stem(settings, rngs=rngs)
        self.levels = nnx.Dict()
        width_in = settings.patch.width
        for name in hierarchy.levels:
            if name == "patch":
                self.levels[name] = PatchLevel()
            else:
                level = getattr(settings, name)
                self.levels[name] = Level(level, width_in, hierarchy.num_members(name), dtype=dtype, rngs=rngs)
                width_in = level.width
            self.levels[name].predictors = nnx.Dict()
        for edge in hierarchy.edges:
            self.levels[edge.source].predictors[edge.relation] = Predictor(
                getattr(settings, edge.source),
                getattr(settings, edge.target).width,
                hierarchy.codes(edge),
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self,
        video: jax.Array,
        *,
        train: bool,
        valid: jax.Array | None = None,
        key: jax.Array | None = None,
        isolated: bool = True,
        last_state: int = -2,
    ) -> dict[str, LevelOutput]:
        """Encode a video at every level.

        Args:
          video: float [B, T, Y, X, 3], normalised with the data set's mean and deviation.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
          key: for dropout; None switches it off.
          isolated: stop gradients at every border between trained levels (method `local`).
          last_state: see `Level`.

        Returns:
          An output per trained level, keyed by level; iterate over `hierarchy`, dicts lose order in jit.
        """
        shapes.check_video(video.shape, self.hierarchy.num_frames)
        tokens, raw = self.stem(video, train=train, valid=valid)
        shapes.check_patches(tokens.shape[1], self.hierarchy.num_tokens("patch"))
        outputs = {}
        if "patch" in self.hierarchy.levels:
            outputs["patch"] = LevelOutput(tokens, raw, None)
        for name in encoded_levels(self.hierarchy.levels):
            if isolated and level_below(name) in outputs:
                tokens = jax.lax.stop_gradient(tokens)
            level_key = None if key is None else jax.random.fold_in(key, LEVELS.index(name))
            outputs[name] = self.levels[name](tokens, train=train, valid=valid, key=level_key, last_state=last_state)
            tokens = outputs[name].tokens
        return outputs


def patch_pixels(settings: ModelSettings) -> int:
    """Return how many pixels of the video a patch is wide and high."""
    return settings.stem.patch_size * (4 if settings.stem.kind == "conv" else 1)


def model_hierarchy(settings: ModelSettings, *, num_frames: int, height: int, width: int) -> Hierarchy:
    """Return the hierarchy of the model on videos [B, num_frames, height, width, 3], still without edges.

    Raises:
      ValueError: naming the sizes that do not divide and the nearest that do.
    """
    scale = patch_pixels(settings)
    for name, size in (("height", height), ("width", width)):
        if size % scale or size < scale:
            below, above = size // scale * scale, (size // scale + 1) * scale
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(
                f"data.{name} = {size} is no multiple of {scale} "
                f"(model.stem.patch_size {settings.stem.patch_size}, {settings.stem.kind} stem); use {near}"
            )
    clips = settings.num_clips if "sequence" in settings.levels else 1
    if "sequence" in settings.levels and clips < 2:
        raise ValueError(f"model.num_clips = {clips}, but the level `sequence` needs at least 2 clips")
    if num_frames % clips or num_frames < clips:
        raise ValueError(f"data.num_frames = {num_frames} cannot be cut into model.num_clips = {clips} equal clips")
    causal, patches = settings.causal_levels, (height // scale) * (width // scale)
    hierarchy = Hierarchy(settings.levels, clips, num_frames // clips, patches, causal)
    for level in causal:
        if hierarchy.num_members(level) < 2:
            raise ValueError(
                f"model.{level}.causal = True, but a {level} has only 1 {level_below(level)} here, so nothing follows "
                f"it that could be predicted; use more of them or causal = False"
            )
    return hierarchy
