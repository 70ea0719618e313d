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
        shapes.check_video(video.shape, self.hierarchy.num_frames * self.hierarchy.frame_step)
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
