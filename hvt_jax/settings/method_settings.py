"""Frozen settings of the methods that `local` is compared with, each read by its own method alone."""

import dataclasses
from typing import Annotated

from hvt_jax.settings.reader import Count, Range, Share

_Frames = Annotated[int, Range(0, 4096)]
_Size = Annotated[float, Range(0.01, 1)]
_Areas = Annotated[tuple[float, ...], Range(0.001, 1, items=2)]
_Temperature = Annotated[float, Range(1e-06)]


@dataclasses.dataclass(frozen=True)
class VicregSettings:
    """Two windows of a video, embedded alike; the weights of the terms are `objective`'s."""

    min_distance: _Frames
    max_distance: _Frames
    projector_layers: Annotated[int, Range(1, 16)]
    projector_expansion: Annotated[float, Range(0.01, 64)]


@dataclasses.dataclass(frozen=True)
class SvtSettings:
    """Two global and some local views of a video; a teacher names the prototypes of the global ones."""

    num_local: Annotated[int, Range(1, 64)]
    local_frames: Count
    local_stride: Count
    local_size: _Size
    global_area: _Areas
    local_area: _Areas
    hidden: Count
    bottleneck: Count
    prototypes: Annotated[int, Range(2)]
    student_temperature: _Temperature
    teacher_temperature: Annotated[tuple[float, ...], Range(1e-06, items=2)]
    teacher_warmup: Share
    momentum: Share
    center_momentum: Share


@dataclasses.dataclass(frozen=True)
class BraveSettings:
    """A narrow and a broad view of a video, each predicting the other."""

    narrow_stride: Count
    broad_frames: Count
    broad_stride: Count
    broad_size: _Size
    hidden: Count
    width: Count


@dataclasses.dataclass(frozen=True)
class PredictorSettings:
    """The transformer that fills in what was masked."""

    width: Count
    depth: Annotated[int, Range(1, 1000)]
    num_heads: Annotated[int, Range(1, 1024)]


@dataclasses.dataclass(frozen=True)
class JepaSettings:
    """Latents of masked patches, as a teacher has them."""

    mask_ratio: Annotated[float, Range(0.01, 0.99)]
    mask_blocks: Annotated[tuple[int, ...], Range(1, 1024)]
    mask_areas: Annotated[tuple[float, ...], Range(0.001, 1)]
    predictor: PredictorSettings
    momentum: Share


@dataclasses.dataclass(frozen=True)
class MaeSettings:
    """Pixels of masked patches."""

    mask_ratio: Annotated[float, Range(0.01, 0.99)]
    decoder: PredictorSettings
