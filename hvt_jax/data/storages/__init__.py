"""Where the frames of a data set are kept: one file a storage, all random access, all giving the same clips.

The catalog gives list and labels; a storage finds a video by `Video.path`. `write_shard` is its counterpart: what it
wrote, `open_storage` reads.
"""

import functools
import importlib
import pathlib
import types
from collections.abc import Iterable

from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.data.storages.base import EncodedVideo, ShardSummary, Storage, WriteOptions
from hvt_jax.data.storages.files import file_sha256
from hvt_jax.settings import DataSettings

__all__ = ["EncodedVideo", "ShardSummary", "Storage", "WriteOptions"]

# Endings of the shards that can be written; the index of a shard stands beside it.
WRITABLE = {"frames": ".index.json", "hdf5": ".h5", "array_record": ".array_record"}
_READABLE = ("raw", *WRITABLE, "tfds")


@functools.lru_cache(maxsize=8)
def open_storage(settings: DataSettings, dataset: Dataset) -> Storage:
    """Return the storage `settings.storage` of the videos of `dataset`; asked again for the same, it is the same one.

    Raises:
      DataError: if it is unknown, or its folder or index cannot be used.
    """
    if settings.storage not in _READABLE:
        raise DataError(f"data.storage = {settings.storage!r}, but must be one of {', '.join(_READABLE)}")
    return _module(settings.storage).open_storage(settings, dataset)


def write_shard(
    storage: str, path: pathlib.Path, videos: Iterable[EncodedVideo], options: WriteOptions
) -> ShardSummary:
    """Write one shard of a storage: under temporary names, synced, then renamed, its index last.

    Equal videos give equal bytes. A shard without an index is not there; writing it again replaces what an interrupted
    call left behind.

    Args:
      storage: one of `WRITABLE`.
      path: of the shard, as `shard_path` gives it.
      videos: taken one at a time; the order is kept.
      options: how it is written.

    Raises:
      DataError: if two videos have one name, or the storage cannot hold such videos.
    """
    if storage not in WRITABLE:
        raise DataError(f"storage {storage!r} cannot be written; use one of {', '.join(WRITABLE)}")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _module(storage).write_shard(path, videos, options)


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
