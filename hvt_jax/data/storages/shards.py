"""What a shard is made from, and its index: which videos it holds, so that none is opened to find one.

    shard-00003-of-00016.h5             the shard
    shard-00003-of-00016.index.json     its videos in order: path, frames, fps, height, width, whether it is an .mp4

The index is renamed into place after its shard; a shard without one does not count.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hvt_jax import disk
from hvt_jax.data.dataset import DataError, SafeFolder
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_FRAMES, VideoInfo

_FORMAT = 1  # raise it with every change of what shards hold
SUFFIX = ".index.json"
OPEN_FILES = 32  # shards that stay open, in every process
_NAME = re.compile(r"shard-(\d{5,})-of-(\d{5,})\.index\.json")
_MAX_BYTES = 1 << 30  # of one index
_REMEDY = "delete it and run the conversion again"


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """One video as it is stored: a JPEG file for each frame, or one .mp4 file.

    Attributes:
      path: `Video.path`.
      num_frames: frames, at an even spacing in time.
      fps: frames per second, 0 if unknown.
      height: pixel rows.
      width: pixel columns.
      jpegs: the JPEG file of every frame; empty if `mp4` holds the video.
      mp4: the .mp4 file; empty if `jpegs` hold the frames.
    """

    path: str
    num_frames: int
    fps: float
    height: int
    width: int
    jpegs: Sequence[bytes] = ()
    mp4: bytes = b""


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a shard holds.

    Attributes:
      paths: `Video.path` of every video, in the order in which they came.
      num_frames: frames of all of them.
      sha256: hash of the shard's bytes, in hexadecimal digits.
    """

    paths: tuple[str, ...]
    num_frames: int
    sha256: str


class Row(NamedTuple):
    """One video of a shard, as the index has it."""

    path: str
    num_frames: int
    fps: float
    height: int
    width: int
    is_mp4: bool


class Place(NamedTuple):
    """Where a stored video is: `first` records of its shard stand before its own, one a frame or one in all."""

    shard: str
    first: int
    is_mp4: bool
    info: VideoInfo


# 650,000 videos as Python objects would take 300 MB in every decoding process.
_TABLE = np.dtype(
    [("shard", "i4"), ("first", "i8"), ("frames", "i4"), ("fps", "f8"), ("height", "i4"), ("width", "i4"), ("mp4", "?")]
)


class Index:
    """Finds videos by `Video.path` among the shards of one folder."""

    def __init__(self, storage: str, root: pathlib.Path):
        """Read the indices of all shards.

        Raises:
          DataError: if there is no shard, one of them is missing, or an index is damaged or of another storage.
        """
        paths = sorted(root.glob("*" + SUFFIX))
        if not paths:
            raise DataError(f"{root}: no shard of {storage} there (*{SUFFIX}); set data.storage_root to their folder")
        _check_complete(root, [path.name for path in paths])
        self._root = root
        self._shards: list[str] = []
        self._numbers: dict[str, int] = {}
        tables = []
        for path in paths:
            shard, rows = read_index(storage, path)
            for row in rows:
                if row.path in self._numbers:
                    raise DataError(f"{path}: {row.path!r} is in another shard or row too; remove one of the two")
                self._numbers[row.path] = len(self._numbers)
            tables.append(_table(len(self._shards), rows))
            self._shards.append(shard)
        self._table = np.concatenate(tables)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __contains__(self, path: str) -> bool:
        return path in self._numbers

    def find(self, path: str) -> Place:
        """Return where a video is.

        Raises:
          VideoError: if it is in no shard.
        """
        number = self._numbers.get(path)
        if number is None:
            raise VideoError(Problem.MISSING, f"in no shard of {self._root}")
        shard, first, frames, fps, height, width, is_mp4 = self._table[number].item()
        return Place(self._shards[shard], first, is_mp4, VideoInfo.stored(frames, fps, height, width))


def _table(shard: int, rows: list[Row]) -> np.ndarray:
    table = np.zeros(len(rows), _TABLE)
    table["shard"] = shard
    for name, column in zip(
        ("frames", "fps", "height", "width", "mp4"), list(zip(*rows, strict=True))[1:], strict=False
    ):
        table[name] = column
    records = np.where(table["mp4"], 1, table["frames"]).astype(np.int64)
    table["first"] = np.cumsum(records) - records
    return table


def _check_complete(root: pathlib.Path, names: list[str]) -> None:
    matches = [match for match in map(_NAME.fullmatch, names) if match]
    counts = sorted({int(match[2]) for match in matches})
    if len(counts) > 1:
        raise DataError(f"{root}: holds shards of {counts[0]} and shards of {counts[1]}; keep one of the two sets")
    found = {int(match[1]) for match in matches}
    if counts and len(found) != counts[0]:
        first = min(set(range(len(found) + 1)) - found)
        raise DataError(f"{root}: {len(found)} of {counts[0]} shards, number {first} is missing; go on converting")


def read_index(storage: str, path: pathlib.Path) -> tuple[str, list[Row]]:
    """Return the name of a shard and its videos in order, from its index.

    Raises:
      DataError: if the index is damaged or of another storage.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, version, shard = content["storage"], content["format"], content["shard"]
        rows = [_checked_row(Row(*row)) for row in content["videos"]]
        if pathlib.PurePath(shard).name != shard or "\0" in shard:
            raise ValueError(f"the shard {shard!r} is not beside it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error}); {_REMEDY}") from error
    if (kind, version) != (storage, _FORMAT):
        raise DataError(f"{path}: is of {kind!r}, format {version!r}, not of {storage!r}, format {_FORMAT}; {_REMEDY}")
    return shard, rows


def _checked_row(row: Row) -> Row:
    sizes = (row.num_frames, row.height, row.width)
    if not isinstance(row.path, str) or any(type(size) is not int for size in sizes) or type(row.is_mp4) is not bool:
        raise ValueError(f"{row.path!r} is no row of an index")
    if not (0 < row.num_frames <= MAX_FRAMES and 0 <= float(row.fps) < 1e6 and 0 < min(sizes) <= max(sizes) < 2**31):
        raise ValueError(f"{row.path!r}: {row.num_frames} frames of {row.height}x{row.width}, {row.fps} a second")
    return row


def index_path(shard: pathlib.Path) -> pathlib.Path:
    """Return where the index of a shard stands."""
    return shard.with_name(shard.name.split(".")[0] + SUFFIX)


def write_index(storage: str, shard: pathlib.Path, rows: list[Row], sha256: str, sync: bool) -> ShardSummary:
    """Write the index of a shard that is in place, which makes it count; `sha256` is the hash of the shard's bytes."""
    content = {"format": _FORMAT, "storage": storage, "shard": shard.name, "sha256": sha256, "videos": rows}
    text = json.dumps(content, separators=(",", ":")).replace('],["', '],\n["')  # a line a video, for people
    disk.write_file(index_path(shard), f"{text}\n".encode(), sync=sync)
    return ShardSummary(tuple(row.path for row in rows), sum(row.num_frames for row in rows), sha256)


def checked_video(shard: pathlib.Path, video: EncodedVideo, seen: set[str]) -> Row:
    """Return the row of a video that is to be stored.

    Raises:
      DataError: if it cannot be stored under its name, or its frames are not what it says.
    """
    reason = SafeFolder(shard.parent).reason_against(video.path)
    if video.path in seen:
        reason = "came twice"
    elif not reason and bool(video.mp4) == bool(video.jpegs):
        reason = "must bring either JPEG files or an .mp4 file"
    elif not reason and video.jpegs and len(video.jpegs) != video.num_frames:
        reason = f"has {video.num_frames} frames, but brings {len(video.jpegs)} JPEG files"
    elif not reason and not all(video.jpegs):
        reason = "brings a frame of 0 bytes"
    if reason:
        raise DataError(f"{shard}: {video.path!r} {reason}; leave it out or convert it again")
    seen.add(video.path)
    row = Row(video.path, int(video.num_frames), float(video.fps), int(video.height), int(video.width), bool(video.mp4))
    return _checked_row(row)


def file_sha256(path: pathlib.Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
