"""Frozen settings of the model, read as a part of `settings.Settings`."""

import dataclasses
from typing import Literal

from hvt_jax import hierarchy as hierarchy_lib

Norm = Literal["batch", "layer", "none"]


@dataclasses.dataclass(frozen=True)
class StemSettings:
    """From pixels to patch tokens."""

    kind: Literal["linear", "conv"]
    patch_size: int
    width: int
    channels: int
    norm_momentum: float


@dataclasses.dataclass(frozen=True)
class PatchSettings:
    """The lowest level, whose tokens the stem makes."""

    width: int
    output_norm: Norm
    predictor_hidden: tuple[int, ...]
    predictor_hidden_norm: Norm
    predictor_norm: Norm


@dataclasses.dataclass(frozen=True)
class LevelSettings(PatchSettings):
    """One level with a transformer of its own."""

    depth: int
    num_heads: int
    head_width: int
    mlp_width: int
    dropout: float
    causal: bool
    remat: bool
    scan: bool


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The hierarchy as a model."""

    hierarchy: str
    num_clips: int
    compute_dtype: Literal["float32", "bfloat16", "float64"]
    stem: StemSettings
    patch: PatchSettings
    frame: LevelSettings
    clip: LevelSettings
    sequence: LevelSettings

    @property
    def levels(self) -> tuple[str, ...]:
        """Trained levels, lowest first."""
        return hierarchy_lib.parse_hierarchy(self.hierarchy)

    @property
    def causal_levels(self) -> tuple[str, ...]:
        """Trained levels with a causal mask."""
        return tuple(level for level in hierarchy_lib.encoded_levels(self.levels) if getattr(self, level).causal)
