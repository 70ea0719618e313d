"""Frozen settings, read once from a ConfigDict; the rest of the library never sees the config.

The dataclasses have no defaults: those live in `configs/default.py` alone, with unit and meaning; ranges stand here.
Reading reports the first field that is unknown, missing, of a wrong type or out of range, in one line.
"""

import dataclasses
import os
from typing import Annotated, Literal

from ml_collections import ConfigDict

from hvt_jax.settings import reader
from hvt_jax.settings.geometry import model_hierarchy
from hvt_jax.settings.method_settings import BraveSettings, JepaSettings, MaeSettings, SvtSettings, VicregSettings
from hvt_jax.settings.model_settings import ModelSettings
from hvt_jax.settings.reader import Count, NotNegative, Range, Share

Method = Literal["local", "joint", "supervised", "vicreg", "svt", "brave", "jepa", "mae"]
Distance = Literal["contrastive", "mse", "smooth_l1", "cosine", "cross_entropy", "vicreg"]
Protocol = Literal["knn", "retrieval", "linear", "mlp", "attentive", "finetune"]  # of the command `evaluate`
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
    split: Annotated[int, Range(1, 3)]
    label: str
    num_frames: Annotated[int, Range(1, 4096)]
    frame_stride: Count
    window_step: Count
    max_windows_per_video: Annotated[int, Range(0)]
    short_videos: Literal["loop", "drop", "pad"]
    test_views_temporal: Annotated[int, Range(1, 1000)]
    test_views_spatial: Annotated[int, Range(1, 100)]
    height: Annotated[int, Range(1, 8192)]
    width: Annotated[int, Range(1, 8192)]
    resize: Literal["keep", "squeeze"]
    resize_margin: Annotated[float, Range(1, 4)]
    mean: Annotated[tuple[float, ...], Range(0, 1, items=3)]
    std: Annotated[tuple[float, ...], Range(1e-06, items=3)]
    num_workers: Annotated[int, Range(-1, 1024)]
    read_threads: Annotated[int, Range(1, 1024)]
    prefetch_batches: Count
    cache_gib: Annotated[float, Range(0, 2**20)]
    video_timeout_seconds: Annotated[float, Range(0.001)]
    manifest: str
    max_bad_fraction: Share


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """Random changes of a video on the device, the same for all its frames."""

    resized_crop_scale: Annotated[tuple[float, ...], Range(0.001, 1, items=2)]
    resized_crop_ratio: Annotated[tuple[float, ...], Range(0.001, 1000.0, items=2)]
    flip_probability: Share
    color_jitter_probability: Share
    brightness: Share
    contrast: Share
    saturation: Share
    hue: Annotated[float, Range(0, 0.5)]
    greyscale_probability: Share
    blur_probability: Share
    blur_sigma: Annotated[tuple[float, ...], Range(0, items=2)]


@dataclasses.dataclass(frozen=True)
class EdgeWeights:
    """Loss weights of the edges of one source level."""

    up: NotNegative
    down: NotNegative
    side: NotNegative


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
    std_divisor: Annotated[float, Range(0.001)]
    contrastive_temperature: Annotated[float, Range(0.001)]
    video_candidates_weight: NotNegative
    batch_candidates_weight: NotNegative
    batch_candidates: Annotated[int, Range(1, 2**20)]
    place_candidates: Annotated[int, Range(0, 2**20)]
    patch_targets: Literal["change", "uniform"]
    patch_weight: NotNegative
    least_distance: Annotated[int, Range(1, 4096)]
    prediction_temperature: Annotated[float, Range(1e-06)]
    target_temperature: Annotated[float, Range(1e-06)]
    # Zero would give infinite gradients of probabilities that underflow, and of tokens that do not vary.
    cross_entropy_epsilon: Annotated[float, Range(1e-12, 1)]
    cosine_scale: NotNegative
    invariance_weight: NotNegative
    variance_weight: NotNegative
    covariance_weight: NotNegative
    variance_epsilon: Annotated[float, Range(1e-12, 1)]
    regularizer: Literal["vicreg", "none"]
    regularizer_weight: NotNegative
    edge_weights: LevelEdgeWeights
    weights_to_uniform: bool


@dataclasses.dataclass(frozen=True)
class LevelEpochs:
    """A number of epochs for every level."""

    patch: NotNegative
    frame: NotNegative
    clip: NotNegative
    sequence: NotNegative


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How parameters move, per label: a level, or the predictors of a level."""

    name: OptimizerName
    learning_rate: NotNegative
    weight_decay: NotNegative
    momentum: Share
    nesterov: bool
    b1: Annotated[float, Range(0, 0.99999)]
    b2: Annotated[float, Range(0, 0.99999999)]
    clip_norm: NotNegative
    predictors: Literal["with", "rate", "own"]
    predictor_rate_multiplier: NotNegative
    predictor_name: OptimizerName
    single: bool
    schedule: Literal["cosine", "step", "constant"]
    warmup_epochs: NotNegative
    final_rate: NotNegative
    step_epochs: Annotated[float, Range(1e-06)]
    step_decay: Share
    accumulation_steps: Count
    alternating_percent: NotNegative
    frozen: tuple[str, ...]
    start_epochs: LevelEpochs
    max_bad_updates: Count


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Length of the run and how it is spread over devices."""

    batch_size: Count
    num_epochs: Annotated[float, Range(1e-09)]
    max_steps: Annotated[int, Range(0)]
    fsdp: bool
    fsdp_min_size: Count
    data_axis: str
    compilation_cache: str
    deterministic: bool


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """When and how the levels are evaluated."""

    schedule: Literal["linear", "exponential"]
    interval: NotNegative
    batch_size: Count
    neighbours: Count
    temperature: Annotated[float, Range(1e-06)]
    probe_steps: Annotated[int, Range(0, 1_000_000)]
    reversed_pairs: tuple[str, ...]
    supervised_ceiling: str
    protocols: tuple[Protocol, ...]
    monitor_tokens: Annotated[int, Range(2)]


@dataclasses.dataclass(frozen=True)
class AlarmSettings:
    """What follows when a level collapses."""

    action: Literal["warn", "stop", "rollback"]
    max_rollbacks: Annotated[int, Range(1, 100)]


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """What is kept of a run to resume from."""

    interval_steps: Count
    keep_latest: Count
    keep_best: Annotated[int, Range(0)]
    best_metric: str


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
    """Where numbers go while a run trains."""

    interval_steps: Count
    tensorboard: bool
    wandb: bool
    wandb_project: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config; what belongs to a method is None in configs from before there was that method."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    method: Method
    data: DataSettings
    augmentation: AugmentationSettings
    model: ModelSettings
    objective: ObjectiveSettings
    vicreg: VicregSettings | None
    svt: SvtSettings | None
    brave: BraveSettings | None
    jepa: JepaSettings | None
    mae: MaeSettings | None
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
    model = dataclasses.replace(settings.model, initial_weights=os.path.expanduser(settings.model.initial_weights))
    settings = dataclasses.replace(settings, data=dataclasses.replace(data, **paths), model=model)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Raise SettingsError for what each field allows, but not together, or what would have no effect."""
    data = settings.data
    if data.storage == "raw" and data.storage_root:
        raise SettingsError(
            f"config.data.storage_root = {data.storage_root!r}, but with config.data.storage = 'raw' videos "
            "are read from config.data.root; set the storage to what that folder holds, or leave the folder out"
        )
    if settings.model.encoder != "hierarchy" and settings.method != "supervised":
        raise SettingsError(
            f"config.method = {settings.method!r} trains a hierarchy, but config.model.encoder = "
            f"{settings.model.encoder!r} has one level; use config.method = 'supervised'"
        )
    if data.resize == "squeeze" and data.test_views_spatial > 1:
        raise SettingsError(
            f"config.data.test_views_spatial = {data.test_views_spatial}, but squeezed frames have no longer side to "
            "crop along; set it to 1, or config.data.resize = 'keep'"
        )
    optimizer = settings.optimizer
    if optimizer.single and optimizer.predictors == "own":
        raise SettingsError(
            "config.optimizer.single and config.optimizer.predictors = 'own' exclude each other; use 'with' or 'rate'"
        )
    model_hierarchy(settings.model, num_frames=data.num_frames, height=data.height, width=data.width)
