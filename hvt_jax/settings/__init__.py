"""Frozen settings, read once from a ConfigDict; the rest of the library never sees the config.

The dataclasses have no defaults: those live in `configs/default.py` alone. Reading reports the first
field that is unknown, missing, of a wrong type or geometrically impossible, in one line.
"""

import dataclasses
import os
from typing import Literal

from ml_collections import ConfigDict

from hvt_jax import hierarchy as hierarchy_lib
from hvt_jax.settings import limits, reader
from hvt_jax.settings.model_settings import ModelSettings

Method = Literal["local", "joint", "supervised"]
Distance = Literal["contrastive", "mse", "smooth_l1", "cosine", "cross_entropy", "vicreg"]
OptimizerName = Literal["sgd", "adamw", "lars", "lamb", "adadelta"]
SettingsError = reader.SettingsError


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which videos are read and how samples are cut from them."""

    name: str
    root: str
    storage: Literal["raw", "frames", "hdf5", "array_record", "tfds"]
    storage_root: str
    follow_links: bool
    split: int
    label: str
    num_frames: int
    frame_stride: int
    window_step: int
    max_windows_per_video: int
    short_videos: Literal["loop", "drop", "pad"]
    test_views_temporal: int
    test_views_spatial: int
    height: int
    width: int
    resize_margin: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_workers: int
    read_threads: int
    prefetch_batches: int
    cache_gib: float
    video_timeout_seconds: float
    manifest: str
    max_bad_fraction: float


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """Random changes of a video on the device, the same for all its frames."""

    resized_crop_scale: tuple[float, ...]
    resized_crop_ratio: tuple[float, ...]
    flip_probability: float
    color_jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    greyscale_probability: float
    blur_probability: float
    blur_sigma: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class EdgeWeights:
    """Loss weights of the edges of one source level."""

    up: float
    down: float
    side: float


@dataclasses.dataclass(frozen=True)
class LevelEdgeWeights:
    """Loss weights by source level."""

    patch: EdgeWeights
    frame: EdgeWeights
    clip: EdgeWeights
    sequence: EdgeWeights


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """What every level is asked to predict and how the miss is measured."""

    distance: Distance
    targets: Literal["stopped", "attached"]
    side: bool
    std_divisor: float
    contrastive_temperature: float
    video_candidates_weight: float
    batch_candidates_weight: float
    batch_candidates: int
    place_candidates: int
    patch_questions: Literal["change", "uniform"]
    least_distance: int
    prediction_temperature: float
    target_temperature: float
    cross_entropy_epsilon: float
    cosine_scale: float
    invariance_weight: float
    variance_weight: float
    covariance_weight: float
    variance_epsilon: float
    regularizer: Literal["vicreg", "none"]
    regularizer_weight: float
    edge_weights: LevelEdgeWeights
    weights_to_uniform: bool


@dataclasses.dataclass(frozen=True)
class LevelEpochs:
    """A number of epochs for every level."""

    patch: float
    frame: float
    clip: float
    sequence: float


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How parameters move, per label: a level, or the predictors of a level."""

    name: OptimizerName
    learning_rate: float
    weight_decay: float
    momentum: float
    nesterov: bool
    b1: float
    b2: float
    clip_norm: float
    predictors: Literal["with", "rate", "own"]
    predictor_rate_multiplier: float
    predictor_name: OptimizerName
    single: bool
    schedule: Literal["cosine", "step", "constant"]
    warmup_epochs: float
    final_rate: float
    step_epochs: float
    step_decay: float
    accumulation_steps: int
    alternating_percent: float
    frozen: tuple[str, ...]
    start_epochs: LevelEpochs
    max_bad_updates: int


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Length of the run and how it is spread over devices."""

    batch_size: int
    num_epochs: float
    max_steps: int
    fsdp: bool
    fsdp_min_size: int
    data_axis: str


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """When and how the levels are judged."""

    schedule: Literal["linear", "exponential"]
    interval: float
    batch_size: int
    neighbours: int
    temperature: float
    probe_steps: int
    reversed_pairs: tuple[str, ...]
    supervised_ceiling: str
    monitor_tokens: int


@dataclasses.dataclass(frozen=True)
class AlarmSettings:
    """What follows when a level collapses."""

    action: Literal["warn", "stop", "rollback"]
    max_rollbacks: int


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """What is kept of a run to resume from."""

    interval_steps: int
    keep_latest: int
    keep_best: int
    best_metric: str


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
    """Where numbers go while a run trains."""

    interval_steps: int
    tensorboard: bool
    wandb: bool
    wandb_project: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config."""

    seed: int
    method: Method
    data: DataSettings
    augmentation: AugmentationSettings
    model: ModelSettings
    objective: ObjectiveSettings
    optimizer: OptimizerSettings
    train: TrainSettings
    evaluation: EvaluationSettings
    alarms: AlarmSettings
    checkpoint: CheckpointSettings
    logging: LoggingSettings


def read_settings(config: ConfigDict) -> Settings:
    """Return the frozen settings of `config`.

    Raises:
      SettingsError: for the first field that is unknown, missing, of a wrong type or value.
    """
    settings = reader.read(Settings, config, "config")
    data = settings.data
    paths = {name: os.path.expanduser(getattr(data, name)) for name in ("root", "storage_root", "manifest")}
    settings = dataclasses.replace(settings, data=dataclasses.replace(data, **paths))
    limits.check_limits(settings)
    try:
        hierarchy_lib.parse_hierarchy(settings.model.hierarchy)
    except ValueError as error:
        raise SettingsError(f"config.model.hierarchy: {error}") from error
    return settings
