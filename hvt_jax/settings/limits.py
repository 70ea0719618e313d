"""The ranges that numbers of a config must lie in, and what several of them must be together."""

import math
from typing import Any

from hvt_jax.hierarchy import LEVELS, RELATIONS
from hvt_jax.settings.reader import SettingsError

_ANY = math.inf

# Smallest and largest value, both allowed. Tuples are checked item by item.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "data.split": (1, 3),
    "data.num_frames": (1, 4096),
    "data.frame_stride": (1, _ANY),
    "data.window_step": (1, _ANY),
    "data.max_windows_per_video": (0, _ANY),
    "data.test_views_temporal": (1, 1000),
    "data.test_views_spatial": (1, 100),
    "data.height": (1, 8192),
    "data.width": (1, 8192),
    "data.resize_margin": (1, 4),
    "data.mean": (0, 1),
    "data.std": (1e-6, _ANY),
    "data.num_workers": (-1, 1024),
    "data.read_threads": (1, 1024),
    "data.prefetch_batches": (1, _ANY),
    "data.cache_gib": (0, 1 << 20),
    "data.video_timeout_seconds": (1e-3, _ANY),
    "data.max_bad_fraction": (0, 1),
    "augmentation.resized_crop_scale": (1e-3, 1),
    "augmentation.resized_crop_ratio": (1e-3, 1e3),
    "augmentation.blur_sigma": (0, _ANY),
    "augmentation.hue": (0, 0.5),
    "model.num_clips": (1, 4096),
    "model.stem.patch_size": (1, 1024),
    "model.stem.width": (1, _ANY),
    "model.stem.channels": (1, _ANY),
    "model.stem.norm_momentum": (0, 1),
    "model.patch.width": (1, _ANY),
    "objective.std_divisor": (1e-3, _ANY),
    "objective.contrastive_temperature": (1e-3, _ANY),
    "objective.video_candidates_weight": (0, _ANY),
    "objective.batch_candidates_weight": (0, _ANY),
    "objective.batch_candidates": (1, 2**20),
    "objective.place_candidates": (0, 2**20),
    "objective.least_distance": (1, 4096),
    "objective.prediction_temperature": (1e-6, _ANY),
    "objective.target_temperature": (1e-6, _ANY),
    "objective.regularizer_weight": (0, _ANY),
    # Zero would give infinite gradients of tokens that do not vary and of probabilities that underflow.
    "objective.cross_entropy_epsilon": (1e-12, 1),
    "objective.variance_epsilon": (1e-12, 1),
    "objective.cosine_scale": (0, _ANY),
    "objective.invariance_weight": (0, _ANY),
    "objective.variance_weight": (0, _ANY),
    "objective.covariance_weight": (0, _ANY),
    "optimizer.learning_rate": (0, _ANY),
    "optimizer.weight_decay": (0, _ANY),
    "optimizer.momentum": (0, 1),
    "optimizer.b1": (0, 0.99999),
    "optimizer.b2": (0, 0.99999999),
    "optimizer.predictor_rate_multiplier": (0, _ANY),
    "optimizer.final_rate": (0, _ANY),
    "optimizer.step_decay": (0, 1),
    "optimizer.clip_norm": (0, _ANY),
    "optimizer.warmup_epochs": (0, _ANY),
    "optimizer.step_epochs": (1e-6, _ANY),
    "optimizer.accumulation_steps": (1, _ANY),
    "optimizer.alternating_percent": (0, _ANY),
    "optimizer.max_bad_updates": (1, _ANY),
    "train.batch_size": (1, _ANY),
    "train.num_epochs": (1e-9, _ANY),
    "train.max_steps": (0, _ANY),
    "train.fsdp_min_size": (1, _ANY),
    "evaluation.interval": (0, _ANY),
    "evaluation.batch_size": (1, _ANY),
    "evaluation.neighbours": (1, _ANY),
    "evaluation.temperature": (1e-6, _ANY),
    "evaluation.probe_steps": (0, 1_000_000),
    "evaluation.monitor_tokens": (2, _ANY),
    "alarms.max_rollbacks": (1, 100),
    "checkpoint.interval_steps": (1, _ANY),
    "checkpoint.keep_latest": (1, _ANY),
    "checkpoint.keep_best": (0, _ANY),
    "logging.interval_steps": (1, _ANY),
}
RANGES |= {
    f"augmentation.{name}": (0, 1)
    for name in (
        "flip_probability",
        "color_jitter_probability",
        "brightness",
        "contrast",
        "saturation",
        "greyscale_probability",
        "blur_probability",
    )
}
RANGES |= {
    f"model.{level}.{name}": limits
    for level in ("frame", "clip", "sequence")
    for name, limits in {
        "width": (1, _ANY),
        "depth": (1, 1000),
        "num_heads": (1, 1024),
        "head_width": (1, _ANY),
        "mlp_width": (1, _ANY),
        "dropout": (0, 0.99),
    }.items()
}
for _level in LEVELS:
    RANGES[f"model.{_level}.predictor_hidden"] = (1, _ANY)
    RANGES[f"optimizer.start_epochs.{_level}"] = (0, _ANY)
    RANGES |= {f"objective.edge_weights.{_level}.{relation}": (0, _ANY) for relation in RELATIONS}
# Fields that no command reads yet, and the one value that promises nothing.
UNUSED = {"data.test_views_temporal": 1, "data.test_views_spatial": 1}
# Colour statistics hold one value a channel, ranges a lowest and a highest one.
LENGTHS = {
    "data.mean": 3,
    "data.std": 3,
    "augmentation.resized_crop_scale": 2,
    "augmentation.resized_crop_ratio": 2,
    "augmentation.blur_sigma": 2,
}


def check_limits(settings: Any) -> None:
    """Raise SettingsError for the first number of `settings` outside its range, naming both, or without effect.

    NaN and infinity are outside every range.
    """
    for field, (low, high) in RANGES.items():
        value = _get(settings, field)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high or not math.isfinite(number):
                limit = f"at least {low:g}" if high == _ANY else f"from {low:g} to {high:g}"
                limit = limit if math.isfinite(number) else f"{limit} and finite"
                raise SettingsError(f"config.{field} = {value}, but must be {limit}")
    for field, length in LENGTHS.items():
        value = _get(settings, field)
        if len(value) != length:
            raise SettingsError(f"config.{field} = {value} has {len(value)} values, but must have {length}")
        if length == 2 and value[0] > value[1]:
            raise SettingsError(f"config.{field} = {value}: the first value must not exceed the second")
    for field, only in UNUSED.items():
        if (value := _get(settings, field)) != only:
            raise SettingsError(f"config.{field} = {value}, but no command uses it yet; leave it at {only}")
    if settings.data.storage == "raw" and settings.data.storage_root:
        raise SettingsError(
            f"config.data.storage_root = {settings.data.storage_root!r}, but with config.data.storage = 'raw' videos "
            "are read from config.data.root; set the storage to what that folder holds, or leave the folder out"
        )


def _get(settings: Any, field: str) -> Any:
    for name in field.split("."):
        settings = getattr(settings, name)
    return settings
