"""Where the frames of a data set are kept: one file a storage, all random access, all giving the same clips.

The catalog gives list and labels; a storage finds a video by `Video.path`. `write_shard` is its counterpart: what it
wrote, `open_storage` reads.
"""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import types
from collections.abc import Iterable, Iterator
from typing import Protocol

from hvt_jax.data import profiling
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.decode import VideoReader
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.quarantine import BadVideo
from hvt_jax.data.readers import Reader, restrict
from hvt_jax.data.storages.shards import EncodedVideo, ShardSummary, file_sha256
from hvt_jax.settings import DataSettings

__all__ = ["EncodedVideo", "ShardSummary"]

# Endings of the shards that can be written; the index of a shard stands beside it.
WRITABLE = {"frames": ".index.json", "hdf5": ".h5", "array_record": ".array_record"}
_READABLE = ("raw", *WRITABLE, "tfds")


class Storage(Protocol):
    """Where the videos of a data set are kept. Threads may share one, and it can be sent to other processes."""

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one video, of all that its file holds.

        Raises:
          VideoError: if it is missing, damaged or without video.
        """


@dataclasses.dataclass(frozen=True)
class RawStorage:
    """Videos as they came, in any container, below the root of the data set; nothing stays open."""

    root: pathlib.Path
    timeout_seconds: float

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one file; see `Storage`."""
        return VideoReader(self.root / video.path, self.timeout_seconds)


@functools.lru_cache(maxsize=8)
def open_storage(settings: DataSettings, dataset: Dataset) -> Storage:
    """Return the storage `settings.storage` of the videos of `dataset`; asked again for the same, it is the same one.

    Raises:
      DataError: if it is unknown, or its folder or index cannot be used.
    """
    if settings.storage not in _READABLE:
        raise DataError(f"data.storage = {settings.storage!r}, but must be one of {', '.join(_READABLE)}")
    root = pathlib.Path(settings.storage_root or dataset.root)
    if settings.storage == "raw":
        return RawStorage(root, settings.video_timeout_seconds)
    return _module(settings.storage).open_storage(root, settings, dataset)


@contextlib.contextmanager
def open_video(dataset: Dataset, settings: DataSettings, video: Video) -> Iterator[Reader]:
    """Open a video, seen through its segment where it has one; one that cannot be opened is opened only once.

    Raises:
      VideoError: if it cannot be read, also from within the `with` block; `Problem.DAMAGED` if it could be opened.
    """
    is_open = False
    try:
        if video.path in dataset.quarantine:
            problem, frames = dataset.quarantine[video.path]
            raise VideoError(Problem(problem), dataset.reasons.get(video.path, ""), frames)
        with restrict(_open(settings, open_storage(settings, dataset), video), video) as reader:
            is_open = True
            yield reader
    except VideoError as error:
        is_damaged = is_open and error.problem in (Problem.UNREADABLE, Problem.TOO_FEW_FRAMES)
        problem = Problem.DAMAGED if is_damaged else error.problem
        if BadVideo(video.path, problem, error.frames, 0).is_closed:
            dataset.quarantine[video.path], dataset.reasons[video.path] = (int(problem), error.frames), str(error)
        raise VideoError(problem, str(error), error.frames) from error


@profiling.timed("read")
def _open(settings: DataSettings, storage: Storage, video: Video) -> Reader:
    reader = storage.open_video(video)
    reader.squeeze = settings.resize == "squeeze"
    return reader


def write_shard(storage: str, path: pathlib.Path, videos: Iterable[EncodedVideo], sync: bool = True) -> ShardSummary:
    """Write one shard of a storage: under temporary names, synced, then renamed, its index last.

    Equal videos give equal bytes. A shard without an index is not there; writing it again replaces what an interrupted
    call left behind.

    Args:
      storage: one of `WRITABLE`.
      path: of the shard, as `shard_path` gives it.
      videos: taken one at a time; the order is kept.
      sync: wait until the bytes are on the disk, so that a loss of power keeps them.

    Raises:
      DataError: if two videos have one name, or the storage cannot hold such videos.
    """
    if storage not in WRITABLE:
        raise DataError(f"storage {storage!r} cannot be written; use one of {', '.join(WRITABLE)}")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _module(storage).write_shard(path, videos, sync)


def hash_shard(storage: str, path: pathlib.Path) -> str:
    """Return the hash of the bytes that a shard holds now, to be compared with that of its `ShardSummary`.

    Raises:
      DataError: if its index is damaged.
      OSError: if something of it is missing.
    """
    return _module(storage).hash_shard(path) if storage == "frames" else file_sha256(path)


def shard_path(storage: str, root: pathlib.Path, number: int, count: int) -> pathlib.Path:
    """Return the path of shard `number` (0, 1, ...) of `count`."""
    return pathlib.Path(root) / f"shard-{number:05d}-of-{count:05d}{WRITABLE[storage]}"


def _module(storage: str) -> types.ModuleType:
    # Late, so that nobody waits for libraries of storages that are not used.
    return importlib.import_module(f"hvt_jax.data.storages.{storage}")
