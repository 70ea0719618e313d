"""HDF5 files, opened as if an enemy had made them: no link, no data outside the file, no size that is only declared.

What is read, under the path of the video, with or without its suffix, in any file of the folder, or in a file of the
video's own (`<path without suffix>.h5`) under any name:

    uint8 [T, Y, X, 3]       frames in RGB
    uint8 [T, N]             a JPEG file per row, filled up with zeros
    variable length [T]      a JPEG file, uint8, per entry
    group of jpeg, ends      uint8 [bytes]: the JPEG files one after another, int64 [T]: where each ends

`write_shard` writes the last one: a clip is one read, in a third of the time of variable length.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator

import h5py
import numpy as np

from hvt_jax import disk
from hvt_jax.data import images
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, Video
from hvt_jax.data.images import StoredFrames
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_FRAMES, MAX_PIXELS, LruCache, Reader, VideoInfo, faults_named
from hvt_jax.data.storages.frames import frames_folder
from hvt_jax.data.storages.shards import (
    OPEN_FILES,
    SUFFIX,
    EncodedVideo,
    Index,
    ShardSummary,
    checked_video,
    file_sha256,
    write_index,
)
from hvt_jax.settings import DataSettings

SUFFIXES = (".h5", ".hdf5")
_LARGE = 4 << 30  # bytes; above it a data set must really store a share of what it declares
_MOST_GAIN = 1000  # times that compressed data may grow
_MAX_CHUNK = 1 << 30  # bytes that are decompressed at once
_VIDEOS_KEPT = 1000  # in each open file, whose checks are not repeated: some MB in each process
_FRAMES_KEPT = 4096  # a longer video is read as if it were new
_RANGE_PAYS = 8  # entries of variable length that one range may read for each that is wanted


@dataclasses.dataclass(frozen=True)
class Hdf5Storage:
    """Reads from files that stay open, a bounded number of them; `index` is None for files that others made."""

    root: pathlib.Path
    timeout_seconds: float
    names: tuple[str, ...]
    folder: SafeFolder
    files: LruCache
    index: Index | None

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one video; see `Storage`."""
        if self.index is not None:
            place = self.index.find(video.path)
            fetch = functools.partial(self._read, place.shard, video.path, place.info.num_frames)
            return StoredFrames(place.info, fetch, self.timeout_seconds)
        if reason := self.folder.reason_against(video.path):
            raise VideoError(Problem.MISSING, f"{video.path!r} {reason}")
        with faults_named("cannot be read"):
            name, node = self._find(video.path)
            data, ends = _parts(node)
            reader = StoredFrames(_describe(data, ends), functools.partial(_fetch, data, ends), self.timeout_seconds)
            reader.file = self.files.get(name)  # the data set alone would not keep its file open
            return reader

    def _read(self, name: str, path: str, num_frames: int, numbers: np.ndarray) -> Iterator:
        data, ends = self.files.get(name).parts.get(path)
        count = _count(data, ends)
        if count != num_frames:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"{name} has {count} of {num_frames} frames", count)
        yield from _fetch(data, ends, numbers)

    def _find(self, path: str) -> tuple[str, h5py.Dataset | h5py.Group]:
        """Return the file that has a video, and the video in it."""
        for suffix in SUFFIXES:
            own = frames_folder(path) + suffix
            if not self.folder.reason_against(own) and (self.root / own).is_file() and own not in self.names:
                file = self.files.get(own).file
                members = [name for name in file if name != "ends"]
                if len(members) != 1:
                    raise VideoError(Problem.UNREADABLE, f"{own} has {len(members)} data sets, not one")
                return own, file if "ends" in file else safe_node(file, members[0])
        for name in self.names:
            for inside in (path, frames_folder(path)):
                if (node := safe_node(self.files.get(name).file, inside, must_exist=False)) is not None:
                    return name, node
        raise VideoError(Problem.MISSING, f"in none of {len(self.names)} HDF5 file(s) of {self.root}")


def safe_node(file: h5py.File, path: str, must_exist: bool = True) -> h5py.Dataset | h5py.Group | None:
    """Return a data set or group of a file, reached through hard links only, all its data in this file.

    Raises:
      VideoError: if it is missing (None if it need not exist) or not to be trusted.
    """
    node = file
    for part in path.split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) and part not in ("", ".") else None
        if link is None:
            if must_exist:
                raise VideoError(Problem.MISSING, f"{os.path.basename(file.filename)} has no {path!r}")
            return None
        if not isinstance(link, h5py.HardLink):
            raise VideoError(Problem.UNREADABLE, f"{path!r} is reached through a link")
        node = node[part]
    if isinstance(node, h5py.Dataset):
        _check_data(node, path)
    return node


def _check_data(data: h5py.Dataset, path: str) -> None:
    stored = data.id.get_storage_size()
    chunk = int(np.prod(data.chunks or (0,), dtype=object)) * data.dtype.itemsize
    if data.external or data.is_virtual:
        raise VideoError(Problem.UNREADABLE, f"{path!r} has its data outside this file")
    if max(data.nbytes, chunk) > _LARGE and data.nbytes > _MOST_GAIN * max(1, stored) or chunk > _MAX_CHUNK:
        reason = f"{path!r} declares {data.nbytes} bytes in chunks of {chunk}, stores {stored}"
        raise VideoError(Problem.TOO_LARGE, reason)
    if data.shape and data.shape[0] > MAX_FRAMES and data.ndim > 1:
        raise VideoError(Problem.TOO_LARGE, f"{path!r} has {data.shape[0]} frames, more than {MAX_FRAMES}")


def _parts(node: h5py.Dataset | h5py.Group) -> tuple[h5py.Dataset, h5py.Dataset | None]:
    """Return the data of a video, and where its frames end if they stand one after another."""
    if isinstance(node, h5py.Group):
        data, ends = safe_node(node, "jpeg"), safe_node(node, "ends")
        if data.dtype == np.uint8 and data.ndim == 1 and ends.dtype == np.int64 and ends.ndim == 1:
            if ends.shape[0] <= MAX_FRAMES:
                return data, ends
    elif node.dtype == np.uint8 and (node.ndim == 2 or node.ndim == 4 and node.shape[3] == 3):
        return node, None
    elif node.ndim == 1 and h5py.check_vlen_dtype(node.dtype) == np.uint8 and node.shape[0] <= MAX_FRAMES:
        return node, None
    kind = f"{node.dtype} {list(node.shape)}" if isinstance(node, h5py.Dataset) else "a group"
    raise VideoError(Problem.UNREADABLE, f"{node.name} is {kind}, not JPEG files or uint8 [T, Y, X, 3]")


def _count(data: h5py.Dataset, ends: h5py.Dataset | np.ndarray | None) -> int:
    return (data if ends is None else ends).shape[0]


def _describe(data: h5py.Dataset, ends: h5py.Dataset | None) -> VideoInfo:
    count = _count(data, ends)
    if not count:
        raise VideoError(Problem.EMPTY, f"{data.name} has no frame")
    first = next(_fetch(data, ends, np.zeros(1, np.int64)))
    height, width = first.shape[:2] if isinstance(first, np.ndarray) else images.image_size(first)
    return VideoInfo.stored(count, 0.0, height, width)


def _fetch(
    data: h5py.Dataset, ends: h5py.Dataset | np.ndarray | None, numbers: np.ndarray
) -> Iterator[bytes | np.ndarray]:
    """Yield frames at rising `numbers`, as JPEG files or as pixels."""
    first, last = int(numbers[0]), int(numbers[-1])
    if ends is not None:
        stops = ends[max(first - 1, 0) : last + 1]
        starts = np.concatenate([[0], stops[:-1]]) if first == 0 else stops[:-1]
        stops = stops if first == 0 else stops[1:]
        if starts[0] < 0 or (stops <= starts).any() or stops[-1] > data.shape[0]:
            raise VideoError(Problem.UNREADABLE, f"{data.name}: the ends of its frames are no rising numbers")
        if stops[-1] - starts[0] > images.MAX_BYTES:
            raise VideoError(Problem.TOO_LARGE, f"{data.name}: {stops[-1] - starts[0]} bytes in one read")
        content = data[starts[0] : stops[-1]].tobytes()
        for number in (numbers - first).tolist():
            yield content[starts[number] - starts[0] : stops[number] - starts[0]]
    elif data.ndim == 4:
        if data.shape[1] * data.shape[2] > MAX_PIXELS:
            raise VideoError(Problem.TOO_LARGE, f"{data.name}: frames of {data.shape[2]}x{data.shape[1]} pixels")
        yield from (data[number] for number in numbers)
    elif data.ndim == 1 and last - first < _RANGE_PAYS * len(numbers):
        entries = data[first : last + 1]
        yield from (entries[number].tobytes() for number in numbers - first)
    else:
        yield from (data[number].tobytes() for number in numbers)


def open_storage(root: pathlib.Path, settings: DataSettings, dataset: Dataset) -> Hdf5Storage:
    """Return the storage of the HDF5 files in `root`.

    Raises:
      DataError: if there is neither such a folder nor such a file, or an index is damaged.
    """
    del dataset
    if root.is_file():
        root, names = root.parent, (root.name,)
    elif root.is_dir():
        names = tuple(sorted(path.name for path in root.iterdir() if path.suffix in SUFFIXES))
    else:
        raise DataError(f"data.storage_root = {str(root)!r}: no such folder; name an HDF5 file or a folder of them")
    index = Index("hdf5", root) if any(root.glob("*" + SUFFIX)) else None
    files = LruCache(functools.partial(_open_file, root), OPEN_FILES)
    return Hdf5Storage(
        root, settings.video_timeout_seconds, names, SafeFolder(root, settings.follow_links), files, index
    )


class _OpenFile:
    """An open file and what was found good in it; both end together."""

    def __init__(self, path: pathlib.Path):
        self.file = h5py.File(path, "r", locking=False)  # nobody writes, and some file systems cannot lock
        self.parts = LruCache(functools.partial(_read_parts, self.file), _VIDEOS_KEPT)


def _read_parts(file: h5py.File, path: str) -> tuple[h5py.Dataset, h5py.Dataset | np.ndarray | None]:
    """Return what `_parts` does; the ends of frames are read."""
    data, ends = _parts(safe_node(file, path))
    return data, ends[:] if ends is not None and ends.shape[0] <= _FRAMES_KEPT else ends


def _open_file(root: pathlib.Path, name: str) -> _OpenFile:
    if not (root / name).is_file():
        raise VideoError(Problem.MISSING, f"no such file: {name}")
    return _OpenFile(root / name)


def write_shard(path: pathlib.Path, videos: Iterable[EncodedVideo], sync: bool) -> ShardSummary:
    """Write one shard and its index; see `storages.write_shard`."""
    rows, seen = [], set()
    # Bounds of the format and no times: equal videos give equal bytes with every version of the library.
    with (
        disk.replaced(path, sync=sync) as unfinished,
        h5py.File(unfinished, "w", libver=("earliest", "v110")) as file,
    ):
        for video in videos:
            rows.append(checked_video(path, video, seen))
            if video.mp4:
                raise DataError(f"{path}: {video.path!r} is an .mp4 file; use the storage array_record")
            ends = np.cumsum([len(jpeg) for jpeg in video.jpegs])
            content = np.frombuffer(b"".join(video.jpegs), np.uint8)
            file.create_dataset(f"{video.path}/jpeg", data=content, track_times=False)
            file.create_dataset(f"{video.path}/ends", data=ends.astype(np.int64), track_times=False)
    return write_index("hdf5", path, rows, file_sha256(path), sync)
