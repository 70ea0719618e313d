"""Frozen features of a split, extracted once and kept: `FOLDER/<hash>/`, by a hash of weights, preprocessing and data.

Arrays are .npy files, written as they are made, so that nothing is held in memory: the readable videos first, in the
order of the split, then rows of zeros for the others. `manifest.json` comes last and has the hash of each file. What
does not agree with it is made anew.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hvt_jax import disk
from hvt_jax.data import problems
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

IN_MEMORY_BYTES = 2**31  # arrays above this are mapped from their file, not read
_BLOCK, _BLOCKS = 2**20, 2048  # of a file that are hashed: all of it up to 2 GiB, else evenly spaced ones
_MANIFEST = "manifest.json"
_VERSION = 1  # of what is in such a folder

Batches = Callable[[], Iterator[dict[str, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Features:
    """What was extracted of a split.

    Attributes:
      arrays: float32 [readable, V, D] features, or [readable, V, N, D] tokens, by level; V views. In memory, or mapped
        from a file above IN_MEMORY_BYTES.
      rows: int [readable], the numbers of the videos that could be read, going up.
      bad: {number of a video: why it cannot be read}.
    """

    arrays: dict[str, np.ndarray]
    rows: np.ndarray
    bad: dict[int, str]


def key_of(parts: Mapping[str, Any]) -> str:
    """Return a hash, in hex, of whatever decides what the features are; JSON values."""
    text = json.dumps({"version": _VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def identity_of(dataset: Dataset, settings: DataSettings) -> str:
    """Return a hash of the videos of a split: names, segments, and sizes and times of the files they are read from.

    Args:
      dataset: the split.
      settings: where its videos are kept.
    """
    digest = hashlib.sha256()
    for video in dataset.videos:
        row = [video.path, video.start_seconds, video.end_seconds]
        if settings.storage == "raw":
            row += _stamp(os.path.join(dataset.root, video.path))
        digest.update(json.dumps(row).encode())
    if settings.storage != "raw":
        folder = pathlib.Path(settings.storage_root or settings.root)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            digest.update(json.dumps([path.name, *_stamp(path)]).encode())
    return digest.hexdigest()


def _stamp(path: str | os.PathLike) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return []  # a missing video is found out when it is to be read
    return [found.st_size, found.st_mtime_ns]


def load(folder: pathlib.Path) -> Features | None:
    """Return what is kept in a folder; None if there is nothing, or it is damaged or half written."""
    try:
        record = json.loads((folder / _MANIFEST).read_text())
        if record["version"] != _VERSION:
            return None
        for name, expected in record["files"].items():
            if _fingerprint(folder / name) != expected:
                return None
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        arrays = {level: _open(folder / f"{level}.npy")[: len(rows)] for level in record["levels"]}
        bad = {int(number): str(reason) for number, reason in record["bad"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    return Features(arrays, rows, bad)


def _open(path: pathlib.Path) -> np.ndarray:
    large = path.stat().st_size > IN_MEMORY_BYTES
    return np.load(path, mmap_mode="r" if large else None, allow_pickle=False)


def _fingerprint(path: pathlib.Path) -> list[int | str]:
    """Return size and SHA-256 of a file; of a large one of blocks that are spread evenly over it."""
    size, digest = path.stat().st_size, hashlib.sha256()
    blocks = -(-size // _BLOCK)
    with path.open("rb") as file:
        for block in sorted({int(place) for place in np.linspace(0, blocks - 1, min(blocks, _BLOCKS))}):
            file.seek(block * _BLOCK)
            digest.update(file.read(_BLOCK))
    return [size, digest.hexdigest()]


def extract(
    folder: pathlib.Path,
    encode: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    batches: Batches,
    dataset: Dataset,
    *,
    on_batch: Callable[[int], object],
) -> Features:
    """Extract features of all videos of a split into a folder, and return them.

    Args:
      folder: to be made; one that is there is replaced.
      encode: of `Trained.compile`: returns {level: [B, V, ...]} and the other fields of a batch.
      batches: returns this process's batches, each video once, padded with `index` -1.
      dataset: the split.
      on_batch: called with how many videos a batch had.

    Raises:
      DataError: if no video can be read, or the disk has no room.
    """
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with disk.refusals_as(DataError, folder, "give another place with --out"):
            unfinished.mkdir(parents=True)
        rows, bad = _write_arrays(unfinished, encode, batches, len(dataset), on_batch)
        if not rows:
            number, reason = next(iter(bad.items()), (None, "there is none"))
            name = "" if number is None else f"{dataset.videos[number].path}: "
            raise DataError(f"none of the {len(dataset)} videos of {dataset.root} can be read; {name}{reason}")
        with disk.refusals_as(DataError, folder, "give another place with --out"):
            np.save(unfinished / "rows.npy", np.array(rows, np.int64), allow_pickle=False)
            names = sorted(path.name for path in unfinished.iterdir())
            record = {
                "version": _VERSION,
                "levels": [name.removesuffix(".npy") for name in names if name != "rows.npy"],
                "bad": bad,
                "files": {name: _fingerprint(unfinished / name) for name in names},
            }
            disk.write_file(unfinished / _MANIFEST, json.dumps(record, indent=1).encode())
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    found = load(folder)
    if found is None:
        raise DataError(f"{folder}: what was just written reads differently; is the disk sound?")
    return found


def _write_arrays(folder, encode, batches: Batches, num_videos: int, on_batch) -> tuple[list[int], dict[int, str]]:
    """Write an array for each level; return which videos could be read, and which not, and why."""
    arrays: dict[str, np.memmap] = {}
    rows: list[int] = []
    bad: dict[int, str] = {}

    def keep(encoded: dict[str, jax.Array]) -> None:
        part = jax.device_get(encoded)
        fields = {name: part.pop(name) for name in ("index", "valid", "reason")}
        real, valid = fields["index"] >= 0, fields["valid"]
        done = len(rows)
        rows.extend(fields["index"][valid].tolist())
        for row in np.flatnonzero(real & ~valid):
            bad[int(fields["index"][row])] = problems.unpack_reason(fields["reason"][row])
        for level, values in part.items():
            if level not in arrays:
                arrays[level] = _new_file(folder / f"{level}.npy", (num_videos, *values.shape[1:]))
            arrays[level][done : len(rows)] = values[valid]
        on_batch(int(real.sum()))

    previous = None
    with contextlib.closing(batches()) as source:
        for batch in source:
            current = encode({name: batch[name] for name in ("video", "index", "valid", "reason")})
            # Fetched one batch behind, so that the device works while the next batch is decoded.
            if previous is not None:
                keep(previous)
            previous = current
    if previous is not None:
        keep(previous)
    for array in arrays.values():
        array.flush()
    return rows, bad


def _new_file(path: pathlib.Path, shape: tuple[int, ...]) -> np.memmap:
    """Return a float32 array of zeros in a new .npy file.

    Raises:
      DataError: if the disk has no room for it: a mapped file that finds none ends the process.
    """
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > 0.95 * free:
        raise DataError(
            f"{path.stem} of {shape[0]} videos takes {needed / 2**20:.2f} MiB, and {path.parent.parent} has "
            f"{free / 2**20:.2f} MiB left; choose --levels or --protocol that need less, or another --out"
        )
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    # Take the room now: the files of other levels, or somebody else, would otherwise count on the same.
    with disk.refusals_as(DataError, path.parent.parent, "give another place with --out"), path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
