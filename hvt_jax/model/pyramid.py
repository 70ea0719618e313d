"""The whole hierarchy: the stem and its levels, with gradients stopped at every border."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax import shapes
from hvt_jax.hierarchy import LEVELS, Hierarchy, encoded_levels, level_below
from hvt_jax.model.level import Level, LevelOutput
from hvt_jax.model.predictor import Predictor
from hvt_jax.model.stem import Stem
from hvt_jax.settings.model_settings import ModelSettings


class OtherSize(NamedTuple):
    """What a model needs to know about videos of another size than its own; made by `model.sizes.other_size`.

    Attributes:
      hierarchy: their frames, clips and patches, at the levels of the model.
      positions: of the members of every level whose groups are of another size, [1 + M, D].
    """

    hierarchy: Hierarchy
    positions: Mapping[str, jax.Array]


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
                options = {"attention": settings.attention, "dtype": dtype, "rngs": rngs}
                self.levels[name] = Level(level, width_in, hierarchy.num_members(name), **options)
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
        size: OtherSize | None = None,
    ) -> dict[str, LevelOutput]:
        """Encode a video at every level.

        Args:
          video: float [B, T, Y, X, 3], normalised with the data set's mean and deviation.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
          key: for dropout; None switches it off.
          isolated: stop gradients at every border between trained levels (method `local`).
          last_state: see `Level`.
          size: of videos that are larger or smaller than those the model is made for; None: they are not.

        Returns:
          An output per trained level, keyed by level; iterate over `hierarchy`, dicts lose order in jit.
        """
        hierarchy, positions = (self.hierarchy, {}) if size is None else size
        shapes.check_video(video.shape, hierarchy.num_frames * hierarchy.frame_step)
        tokens, raw = self.stem(video, train=train, valid=valid)
        shapes.check_patches(tokens.shape[1], hierarchy.num_tokens("patch"))
        outputs = {"patch": LevelOutput(tokens, raw, None)} if "patch" in hierarchy.levels else {}
        options = {"train": train, "valid": valid, "key": key, "isolated": isolated, "last_state": last_state}
        return outputs | self.encode(tokens, positions=positions, **options)

    def encode(
        self,
        tokens: jax.Array,
        *,
        train: bool,
        valid: jax.Array | None = None,
        key: jax.Array | None = None,
        isolated: bool = True,
        last_state: int = -2,
        positions: Mapping[str, jax.Array],
    ) -> dict[str, LevelOutput]:
        """Encode patch tokens [B, T·P, D] at every level above them; arguments as in a call.

        Args:
          tokens: of the stem.
          train: as in a call.
          valid: as in a call.
          key: as in a call.
          isolated: as in a call.
          last_state: as in a call.
          positions: of the members of levels that get others than all of their own, see `Level`; {} = none does.
        """
        outputs: dict[str, LevelOutput] = {}
        for name in encoded_levels(self.hierarchy.levels):
            if isolated and level_below(name) in self.hierarchy.levels:
                tokens = jax.lax.stop_gradient(tokens)
            level_key = None if key is None else jax.random.fold_in(key, LEVELS.index(name))
            options = {"key": level_key, "last_state": last_state, "positions": positions.get(name)}
            outputs[name] = self.levels[name](tokens, train=train, valid=valid, **options)
            tokens = outputs[name].tokens
        return outputs
