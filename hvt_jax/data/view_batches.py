"""Batches with several views of each video, made and shared as in `pipeline`.

What a `views.Plan` of one group cuts comes as arrays, that of several groups as dicts of arrays by group:

    video        uint8 [B, V, T, Y, X, 3]  RGB; zeros if not valid
    start        int32 [B, V]              first frame of each view
    crop         int32 [B, V, 2]           top and left pixel in the resized frame; 0 where the centre is cut
    frame_valid  bool  [B, V, T]           False for frames repeated to fill a short video, and for all of no video
    label, index, frames, valid, problem, reason   as in `pipeline`
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from hvt_jax.data import counts, pipeline, storages, views
from hvt_jax.data.dataset import Dataset
from hvt_jax.data.problems import REASON_BYTES, Problem, VideoError, pack_reason
from hvt_jax.settings import DataSettings

Batch = dict[str, Any]
_CUT = ("video", "start", "crop", "frame_valid")


def train_view_batches(
    dataset: Dataset,
    settings: DataSettings,
    plan: views.Plan,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Return endless batches in which every video comes once an epoch, its views a function of (seed, epoch, video).

    Args:
      dataset: the videos.
      settings: how they are read; sizes and strides are those of the plan.
      plan: which views.
      batch_size: videos of a step over all hosts.
      seed: of order, windows and crops.
      start_step: steps to skip, without reading them.
      host: number of this host.
      hosts: how many hosts share a batch.

    Raises:
      DataError: if short videos are dropped and no video is long enough.
      ValueError: if the batch cannot be shared evenly.
    """
    whole = dataclasses.replace(settings, num_frames=plan.span, frame_stride=1, max_windows_per_video=1)
    videos, _ = counts.training_samples(dataset, whole)
    samples = grain.MapDataset.range(len(videos)).seed(seed).shuffle().repeat(None)
    samples = samples.map_with_index(_Cut(dataset, settings, plan, seed, videos))
    return pipeline.shared_batches(
        samples, settings, batch_size=batch_size, start_step=start_step, host=host, hosts=hosts
    )


def test_view_batches(
    dataset: Dataset, settings: DataSettings, plan: views.Plan, *, batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Return batches with the views of every video exactly once, in order; the last one is padded.

    Raises:
      ValueError: if the batch cannot be shared evenly.
    """
    padded = -(-len(dataset) // batch_size) * batch_size
    cut = _Cut(dataset, settings, plan, 0, np.arange(padded))
    samples = grain.MapDataset.range(padded).map_with_index(cut)
    return pipeline.shared_batches(samples, settings, batch_size=batch_size, start_step=0, host=host, hosts=hosts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Cut(grain.transforms.MapWithIndex):
    dataset: Dataset
    settings: DataSettings
    plan: views.Plan
    seed: int
    videos: np.ndarray

    def map_with_index(self, index: int, element: int) -> Batch:
        video, epoch = int(self.videos[element]), int(index) // len(self.videos)
        if video >= len(self.dataset):
            return _empty(self.plan, index=-1, label=-1)
        return _read(self.dataset, self.settings, self.plan, video, np.random.default_rng((self.seed, epoch, video)))


def _read(dataset: Dataset, settings: DataSettings, plan: views.Plan, number: int, rng: np.random.Generator) -> Batch:
    """Return one sample; a video that cannot be read gives an invalid one, never an exception."""
    video = dataset.videos[number]
    empty, cut = _empty(plan, index=number, label=video.labels[0]), {}
    try:
        with storages.open_video(dataset, settings, video) as reader:
            count = reader.info.num_frames
            if count < plan.span and settings.short_videos == "drop":
                raise VideoError(Problem.TOO_SHORT, f"{count} frames, the views span {plan.span}", count)
            for name, group in plan.cut(count, rng).items():
                pixels, crops, own = views.read_views(reader, group, settings.short_videos)
                cut[name] = dict(zip(_CUT, (pixels, group.start.astype(np.int32), crops, own), strict=True))
    except VideoError as error:
        fault = {"problem": np.int8(error.problem), "frames": np.int32(error.frames)}
        return {**empty, **fault, "reason": pack_reason(str(error))}
    frames = sum(group["frame_valid"].size for group in cut.values())
    return {**empty, **_by_field(cut), "frames": np.int32(frames), "valid": np.bool_(True)}


def _by_field(cut: dict[str, Batch]) -> Batch:
    """Return {field: {group: array}}, without the groups where there is only one."""
    fields = {field: {name: group[field] for name, group in cut.items()} for field in _CUT}
    return {field: groups[""] if "" in groups else groups for field, groups in fields.items()}


def _empty(plan: views.Plan, *, index: int, label: int) -> Batch:
    cut = {}
    for name, (count, shape) in plan.groups().items():
        cut[name] = {
            "video": np.zeros((count, shape.length, shape.height, shape.width, 3), np.uint8),
            "start": np.zeros(count, np.int32),
            "crop": np.zeros((count, 2), np.int32),
            "frame_valid": np.zeros((count, shape.length), bool),
        }
    return {
        **_by_field(cut),
        "label": np.int32(label),
        "index": np.int32(index),
        "frames": np.int32(0),
        "valid": np.bool_(False),
        "problem": np.int8(Problem.OK),
        "reason": np.zeros(REASON_BYTES, np.uint8),
    }
