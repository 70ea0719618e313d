"""What a trained model is evaluated on: both splits, their labels, and the features of every level."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from hvt_jax.data import catalog, pipeline, views
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import pairs
from hvt_jax.run.run_data import RunData
from hvt_jax.run.trained import Trained
from hvt_jax.settings import DataSettings, Settings, SettingsError
from hvt_jax.tools import feature_cache
from hvt_jax.tools.feature_cache import Features

# What the model was trained to see, and what its weights therefore fix.
_OF_THE_MODEL = ("num_frames", "frame_stride", "height", "width", "resize", "resize_margin", "mean", "std")
_OF_THE_MODEL += ("short_videos",)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, as it is asked about.

    Attributes:
      name: "train" or "test".
      dataset: its videos.
      clips: windows of each video.
      crops: of each window.
    """

    name: str
    dataset: Dataset
    clips: int = 1
    crops: int = 1


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """Both splits.

    Attributes:
      settings: how videos are read, for the model.
      train: training videos, one central view each.
      test: test videos, all their views.
      partners: by label set, of classes in reversed pairs, see `pairs.find_partners`.
      fingerprint: of videos and labels, 12 hex digits.
    """

    settings: DataSettings
    train: Split
    test: Split
    partners: dict[str, np.ndarray]
    fingerprint: str

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """Class names of every label set."""
        return self.test.dataset.label_names


def load_data(trained: Trained, other: Settings | None, *, clips: int, crops: int) -> EvaluationData:
    """Return the data of the run, or other data as the model sees them.

    Args:
      trained: the model.
      other: a config whose data (and whose reversed pairs) are taken; None for those of the run.
      clips: windows of every test video.
      crops: of each window.

    Raises:
      DataError: if they cannot be used.
      SettingsError: for a pair of classes that is not there, or several crops where there is no room for them.
    """
    settings, source = trained.settings.data, other or trained.settings
    if crops > 1 and settings.resize == "squeeze":
        raise SettingsError(f"{crops} crops of squeezed frames (config.data.resize) would all be the same; use 1")
    if other is not None:
        kept = {name: getattr(settings, name) for name in _OF_THE_MODEL}
        settings = dataclasses.replace(other.data, **kept)
    train, test = (catalog.load_dataset(settings, name) for name in ("train", "test"))
    if len(train) < 2 or not len(test):
        raise DataError(
            f"{settings.root}: {len(train)} training and {len(test)} test videos; an evaluation needs at least 2 and 1"
        )
    if train.label_names != test.label_names:
        raise DataError(f"{settings.root}: the classes of the training and the test split differ")
    partners = pairs.find_partners(source.evaluation.reversed_pairs, test.label_names)
    fingerprint = f"{RunData({'train': train, 'test': test}).fingerprint:012x}"
    return EvaluationData(settings, Split("train", train), Split("test", test, clips, crops), partners, fingerprint)


def get_features(
    trained: Trained,
    data: EvaluationData,
    split: Split,
    *,
    tokens_of: tuple[str, ...],
    cache: pathlib.Path,
    say: Callable[[str], object],
    bar: Callable[[str, int], Callable[[int], object]],
) -> Features:
    """Return features of a split, from the cache if they are there.

    Args:
      trained: the model.
      data: what it is evaluated on.
      split: one of the two splits of `data`.
      tokens_of: levels whose tokens are wanted; () for the features of all levels.
      cache: folder that holds the caches of all hashes.
      say: called with a line on where they come from.
      bar: called with a title and the number of videos, returns what is called with how many more are done.

    Raises:
      DataError: if too many videos cannot be read, or there is no room.
    """
    kind = f"tokens of {', '.join(tokens_of)}" if tokens_of else "features"
    folder = cache / feature_cache.key_of(_parts(trained, data, split, tokens_of))
    title = f"{kind} of {len(split.dataset)} {split.name} videos" + (", untrained" if trained.step == 0 else "")
    found = feature_cache.load(folder)
    if found is not None:
        say(f"{title}: there already, in {folder}")
    else:
        if folder.exists():
            say(f"{folder}: damaged, made anew")
        encode = trained.compile(functools.partial(_build, tokens_of=tokens_of))
        batches = functools.partial(batches_of, trained.settings, data.settings, split)
        advance = bar(title, len(split.dataset))
        found = feature_cache.extract(folder, encode, batches, split.dataset, on_batch=advance)
    _check_bad(found, split, data.settings, say)
    return found


def _parts(trained: Trained, data: EvaluationData, split: Split, tokens_of: tuple[str, ...]) -> dict:
    settings = {name: getattr(data.settings, name) for name in (*_OF_THE_MODEL, "storage")}
    return {
        "weights": trained.digest,
        "model": dataclasses.asdict(trained.settings.model),
        "preprocessing": settings,
        "views": [split.clips, split.crops],
        "videos": feature_cache.identity_of(split.dataset, data.settings),
        "tokens": list(tokens_of),
    }


def _build(definition: Definition, tokens_of: tuple[str, ...]) -> Callable:
    """Return `f(params, stats, video) -> {level: [B, V, ...]}` for videos [B, T, ...] or views [B, V, T, ...]."""
    levels = tokens_of or definition.hierarchy.levels
    inner = (steps.build_tokens if tokens_of else steps.build_encode)(definition)

    def encode(params, stats, video):
        views_BV = video if video.ndim == 6 else video[:, None]
        found = inner(params, stats, views_BV.reshape(-1, *views_BV.shape[2:]))
        return {level: found[level].reshape(*views_BV.shape[:2], *found[level].shape[1:]) for level in levels}

    return encode


def batches_of(settings: Settings, data: DataSettings, split: Split) -> Iterator[dict[str, np.ndarray]]:
    """Return batches with all views of every video of a split once, in order; the last one is padded."""
    devices, num_views = jax.device_count(), split.clips * split.crops
    size = max(1, settings.evaluation.batch_size // num_views // devices) * devices
    hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
    asked = dataclasses.replace(data, test_views_temporal=split.clips, test_views_spatial=split.crops)
    plan = None if num_views == 1 else views.test_views(asked)
    return pipeline.evaluation_batches(split.dataset, data, plan, batch_size=size, **hosts)


def _check_bad(found: Features, split: Split, settings: DataSettings, say: Callable[[str], object]) -> None:
    """Say which videos cannot be read; refuse if they are more than the config allows."""
    total, bad = len(split.dataset), found.bad
    for number, reason in list(bad.items())[:5]:
        say(f"bad {split.name} video, which counts in nothing: {split.dataset.videos[number].path}: {reason}")
    if len(bad) > 5:
        say(f"and {len(bad) - 5} more")
    if len(bad) > settings.max_bad_fraction * total:
        raise DataError(
            f"{len(bad)} of {total} {split.name} videos cannot be read, {len(bad) / total:.1%}, more than "
            f"data.max_bad_fraction = {settings.max_bad_fraction:g}; get them again, or allow more"
        )
