"""Rows of a batch: windows or views of videos, decoded into what the trainer will see; fields as in `pipeline`."""

import dataclasses
from typing import Any

import grain
import numpy as np

from hvt_jax.data import profiling, sampling, shared_arrays, storages, transforms
from hvt_jax.data.dataset import Dataset
from hvt_jax.data.problems import REASON_BYTES, Problem, VideoError, pack_reason
from hvt_jax.data.readers import Reader
from hvt_jax.settings import DataSettings

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Share:
    """What of a batch is this host's: `rows` of `batch_size`, those of lower hosts before them.

    A sample then has the same place in the global batch on any number of hosts, and with it the same augmentation,
    questions and dropout. Every `hosts`-th sample would not do: a global array is put together host after host.
    """

    batch_size: int
    rows: int
    host: int


class Batches(grain.MapDataset):
    """Batches of this host, every sample decoded into its row: none is copied."""

    def __init__(self, elements: grain.MapDataset, samples: "Samples", share: Share, in_workers: bool):
        """Read `samples` in the order of `elements`; pixels made `in_workers` are tickets for the trainer."""
        super().__init__(elements)
        self._samples, self._share, self._in_workers = samples, share, in_workers

    def __len__(self) -> int:
        return len(self._parent) // self._share.batch_size

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch = self._samples.empty(self._share.rows, self._in_workers)
        first = index * self._share.batch_size + self._share.host * self._share.rows
        for row in range(self._share.rows):
            self._samples.fill(batch, row, first + row, int(self._parent[first + row]))
        return shared_arrays.tickets_for(batch) if self._in_workers else batch


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What `plan` cuts from videos; whatever is drawn is a function of (seed, epoch, video).

    Frames are counted when a file is opened, so that training need not wait for a look at all files.

    Attributes:
      dataset: the videos.
      settings: how they are read.
      plan: one window, or several views, of a video.
      videos: int64 [samples], the video of every sample of an epoch; what is beyond the last one is padding.
      numbers: int64 [samples], which sample of its video it is.
      seed: of all draws.
    """

    dataset: Dataset
    settings: DataSettings
    plan: sampling.Plan
    videos: np.ndarray
    numbers: np.ndarray
    seed: int = 0

    def empty(self, rows: int, in_worker: bool = False) -> Batch:
        """Return an invalid batch; its pixels are yet to be written."""
        fields: dict[str, dict[str, np.ndarray]] = {"video": {}, "start": {}, "crop": {}, "frame_valid": {}}
        is_window = isinstance(self.plan, sampling.Window)
        for name, (count, shape) in self.plan.groups().items():
            size = (rows,) if is_window else (rows, count)
            pixels = (*size, shape.length, shape.height, shape.width, 3)
            fields["video"][name] = shared_arrays.POOL.borrow(pixels) if in_worker else np.empty(pixels, np.uint8)
            fields["start"][name], fields["crop"][name] = np.zeros(size, np.int32), np.zeros((*size, 2), np.int32)
            fields["frame_valid"][name] = np.zeros((*size, shape.length), bool)
        if is_window:
            del fields["crop"]
        return {
            **{field: groups[""] if "" in groups else groups for field, groups in fields.items()},
            **{name: np.zeros(rows, np.int32) for name in ("label", "index", "frames")},
            "valid": np.zeros(rows, bool),
            "problem": np.zeros(rows, np.int8),
            "reason": np.zeros((rows, REASON_BYTES), np.uint8),
        }

    @profiling.timed("sample")
    def fill(self, batch: Batch, row: int, position: int, element: int) -> None:
        """Read sample `element` of an epoch, at `position` in the order of all epochs, into a row.

        A video that cannot be read leaves an invalid row, never an exception. One that cannot be opened at all, or that
        has taken too long twice, gets into the quarantine of the data set.
        """
        groups = _groups_of(batch, row)
        if element >= len(self.videos):
            batch["index"][row] = batch["label"][row] = -1
            _clear(groups)
            return
        number = int(self.videos[element])
        batch["index"][row], batch["label"][row] = number, self.dataset.videos[number].labels[0]
        try:
            self._read_in_time(groups, number, element, int(position) // len(self.videos))
        except VideoError as error:
            batch["problem"][row], batch["frames"][row] = error.problem, error.frames
            batch["reason"][row] = pack_reason(str(error))
            _clear(groups)
            return
        batch["valid"][row] = True
        batch["frames"][row] = sum(group["frame_valid"].size for group in groups.values())

    def _read_in_time(self, groups: dict[str, Batch], number: int, element: int, epoch: int) -> None:
        """Read as `_read` does, once more where the time is over for the first time.

        It may have been the machine: a process that is stopped, by Ctrl-Z or as a suspended job, finds when it goes on
        that the time of what it was reading is over.
        """
        path = self.dataset.videos[number].path
        is_known = path in self.dataset.quarantine
        try:
            return self._read(groups, number, element, epoch)
        except VideoError as error:
            if is_known or error.problem is not Problem.TIMEOUT:
                raise
        self.dataset.quarantine.pop(path, None)
        return self._read(groups, number, element, epoch)

    def _read(self, groups: dict[str, Batch], number: int, element: int, epoch: int) -> None:
        """Read the sample of video `number` into the arrays of a row, from memory if it is there."""
        video, plan, cache = self.dataset.videos[number], self.plan, None
        if isinstance(plan, sampling.Window):
            plan, cache = plan.nth(int(self.numbers[element])), cache_of(self.dataset.caches, self.settings)

        def cut(count: int) -> dict[str, sampling.Views]:
            return plan.cut(count, np.random.default_rng((self.seed, epoch, number)))

        known = cache.lengths.get(number) if cache is not None else None
        if known and cache.give(cut(known)[""], number, groups[""]):
            return
        with storages.open_video(self.dataset, self.settings, video) as reader:
            count = reader.info.num_frames
            if count < plan.span and self.settings.short_videos == "drop":
                raise VideoError(Problem.TOO_SHORT, f"{count} frames, a sample spans {plan.span}", count)
            for name, group in cut(count).items():
                room = groups[name]
                crops, own = read_views(reader, group, self.settings.short_videos, room["video"])
                room["start"][...], room["frame_valid"][...] = group.start, own
                if "crop" in room:
                    room["crop"][...] = crops
        if cache is not None:
            cache.keep(number, count, groups[""])


def read_views(
    reader: Reader, views: sampling.Views, short: sampling.ShortVideos, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read views into `pixels`, uint8 [V, T, Y, X, 3]; return top and left of the crops, int32 [V, 2], and own frames.

    Own frames, bool [V, T], are those not repeated to fill a short video. Crops of one window beside each other are cut
    out of frames that are read once.

    Raises:
      VideoError: if the video cannot be read or a frame is missing.
    """
    shape, size = views.shape, (views.shape.height, views.shape.width)
    frames, own = sampling.pick_frames(views.start, shape.length, shape.stride, reader.info.num_frames, short)
    crops = np.zeros((len(frames), 2), np.int32)
    if (views.places == 0.5).all() and (views.zoom == 1).all():
        for numbers, room in zip(frames, pixels, strict=True):
            reader.read(numbers, *size, room)
        return crops, own
    upright, window, before = reader.upright_size(), None, None
    for number, zoom in enumerate(views.zoom):
        box = transforms.cover_box(*upright, *(round(side * zoom) for side in size), reader.squeeze)
        resized = box.resized_height, box.resized_width
        if before != (int(views.start[number]), resized):
            before = int(views.start[number]), resized
            window = reader.read(frames[number], *resized)
        top, left = crops[number] = sampling.crop_offsets(resized, size, views.places[number])
        pixels[number] = window[:, top : top + size[0], left : left + size[1]]
    return crops, own


def _groups_of(batch: Batch, row: int) -> dict[str, Batch]:
    """Return {group: {field: array}}, the parts of a row with an axis of views, [V, ...], that share its memory."""
    groups: dict[str, Batch] = {}
    for field in ("video", "start", "crop", "frame_valid"):
        arrays = batch.get(field, {})
        for name, array in (arrays if isinstance(arrays, dict) else {"": arrays}).items():
            part = np.asarray(array)[row : row + 1]
            groups.setdefault(name, {})[field] = part[0] if "crop" in batch else part
    return groups


def _clear(groups: dict[str, Batch]) -> None:
    for group in groups.values():
        for part in group.values():
            part[...] = 0


class WindowCache:
    """Decoded windows of one data set in one process, kept while there is room; safe to share between threads.

    Attributes:
      lengths: frames of every video that was opened, by its number.
    """

    def __init__(self, limit_bytes: int):
        """Keep windows until their pixels take `limit_bytes`; then only those that are there already."""
        self.lengths: dict[int, int] = {}
        self._limit_bytes, self._bytes = limit_bytes, 0
        self._windows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __reduce__(self):
        return WindowCache, (self._limit_bytes,)  # a new process begins with an empty one

    def give(self, window: sampling.Views, number: int, room: Batch) -> bool:
        """Put the window of video `number` into the arrays of a row; return whether it was there."""
        found = self._windows.get((number, int(window.start[0])))
        if found is not None:
            room["video"][0], room["frame_valid"][0] = found
            room["start"][0] = window.start[0]
        return found is not None

    def keep(self, number: int, count: int, room: Batch) -> None:
        """Keep a copy of the window in the arrays of a row, if there is room, and that its video has `count` frames."""
        pixels, own = room["video"][0], room["frame_valid"][0]
        if self._bytes + pixels.nbytes <= self._limit_bytes:
            self._bytes += pixels.nbytes  # threads may both add a window: what is counted is never too little
            self._windows[number, int(room["start"][0])] = pixels.copy(), own.copy()
        self.lengths[number] = count


def cache_of(caches: dict[DataSettings, WindowCache], settings: DataSettings) -> WindowCache | None:
    """Return the cache of what `settings` cut from the videos of a data set; None if nothing is kept."""
    if not settings.cache_gib:
        return None
    if settings not in caches:
        caches.setdefault(settings, WindowCache(int(settings.cache_gib * 2**30)))
    return caches[settings]
