"""Frozen settings of the model, read as a part of `settings.Settings`."""

import dataclasses
from typing import Annotated, Literal

from hvt_jax import hierarchy as hierarchy_lib
from hvt_jax.settings.reader import Count, Range, Share

Norm = Literal["batch", "layer", "none"]


@dataclasses.dataclass(frozen=True)
class StemSettings:
    """From pixels to patch tokens."""

    kind: Literal["linear", "conv", "s3d"]
    patch_size: Annotated[int, Range(1, 1024)]
    width: Count
    channels: Count
    norm_momentum: Share
    trainable: bool


@dataclasses.dataclass(frozen=True)
class PatchSettings:
    """The lowest level, whose tokens the stem makes."""

    width: Count
    output_norm: Norm
    predictor_hidden: Annotated[tuple[int, ...], Range(1)]
    predictor_hidden_norm: Norm
    predictor_norm: Norm


@dataclasses.dataclass(frozen=True)
class LevelSettings(PatchSettings):
    """One level with a transformer of its own."""

    depth: Annotated[int, Range(1, 1000)]
    num_heads: Annotated[int, Range(1, 1024)]
    head_width: Count
    mlp_width: Count
    qkv_bias: bool
    norm_epsilon: Annotated[float, Range(1e-12, 1)]
    dropout: Annotated[float, Range(0, 0.99)]
    causal: bool
    remat: bool
    groups_at_once: Annotated[int, Range(0)]
    scan: bool


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The hierarchy, or another encoder, as a model."""

    encoder: Literal["hierarchy", "s3d"]
    hierarchy: Literal[*("-".join(levels) for levels in (*hierarchy_lib.HIERARCHIES, hierarchy_lib.SINGLE))]
    num_clips: Annotated[int, Range(1, 4096)]
    compute_dtype: Literal["float32", "bfloat16", "float64"]
    attention: Literal["xla", "cudnn"]
    initial_weights: str
    stem: StemSettings
    patch: PatchSettings
    frame: LevelSettings
    clip: LevelSettings
    sequence: LevelSettings

    @property
    def levels(self) -> tuple[str, ...]:
        """Trained levels, lowest first."""
        return tuple(self.hierarchy.split("-"))

    @property
    def causal_levels(self) -> tuple[str, ...]:
        """Trained levels with a causal mask."""
        return tuple(level for level in hierarchy_lib.encoded_levels(self.levels) if getattr(self, level).causal)
