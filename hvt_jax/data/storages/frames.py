"""A folder of picture files per video, `<root>/<path of the video without its suffix>/<number>.jpg`, as the original's.

Numbers may have any width, begin anywhere and rise in even steps, after any name (`1.jpg`, `00000.png`,
`img_00005.jpg`); a number left out is an error. Pictures of optical flow beside them (`flow_x_00001.jpg`) and files
that begin with a dot are no frames. What `write_shard` made has an index, which also knows the rate.
"""

import dataclasses
import functools
import hashlib
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator

import numpy as np

from hvt_jax.data import images
from hvt_jax.data.containers import PICTURE_SUFFIXES
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, Video
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_FRAMES, Reader, VideoInfo
from hvt_jax.data.storages.shards import (
    SUFFIX,
    EncodedVideo,
    Index,
    ShardSummary,
    checked_video,
    index_path,
    read_index,
    write_index,
)
from hvt_jax.settings import DataSettings

_NAME = re.compile(r"(.*?)(\d+)(\.[^.]+)", re.DOTALL)
# Words before the numbers of pictures of optical flow, as TSN, ActionFlowNet and others name them.
_FLOW_WORDS = frozenset("flow flowx flowy flows optical opticalflow tvl x y u v".split())


@dataclasses.dataclass(frozen=True)
class FramesStorage:
    """Opens one picture at a time; `index` is None for folders that others made."""

    root: pathlib.Path
    timeout_seconds: float
    folder: SafeFolder
    index: Index | None
    follow_links: bool

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one folder; see `Storage`."""
        if reason := self.folder.reason_against(video.path):
            raise VideoError(Problem.MISSING, f"{video.path!r} {reason}")
        if self.index is not None and video.path in self.index:
            folder = os.path.join(self.root, frames_folder(video.path))
            info, names = self.index.find(video.path).info, None
        else:
            folder = find_folder(self.root, video.path)
            names = _list_frames(folder)
            height, width = images.image_size(images.read_image(folder / names[0], self.follow_links))
            info = VideoInfo.stored(len(names), 0.0, height, width)
        fetch = functools.partial(_read_frames, folder, names, self.follow_links)
        return images.StoredFrames(info, fetch, self.timeout_seconds)


@functools.lru_cache(maxsize=2**16)
def frames_folder(path: str) -> str:
    """Return the folder of the frames of a video, below the root."""
    return pathlib.PurePosixPath(path).with_suffix("").as_posix()


def find_folder(root: pathlib.Path, path: str) -> pathlib.Path:
    """Return the folder of the frames of a video: its path without the suffix, or as it is; there may be none."""
    folder = root / frames_folder(path)
    return folder if folder.is_dir() else root / path


def _frame_name(number: int) -> str:
    return f"{number + 1:05d}.jpg"


def _read_frames(
    folder: str | pathlib.Path, names: list[str] | None, follow_links: bool, numbers: np.ndarray
) -> Iterator[bytes]:
    for number in numbers.tolist():  # joined as text: sixteen `Path`s cost as much as decoding a frame
        yield images.read_image(f"{folder}/{names[number] if names else _frame_name(number)}", follow_links)


def _list_frames(folder: pathlib.Path) -> list[str]:
    """Return the names of the pictures of a folder in the order of their numbers."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES]
    except OSError as error:
        raise VideoError(Problem.MISSING, f"no folder of frames ({error.strerror})") from error
    numbers = _without_flow({name: _split_name(name) for name in names if not name.startswith(".")})
    found: dict[int, str] = {}
    for name, number in numbers.items():
        if number in found:
            raise VideoError(Problem.UNREADABLE, f"{name} and {found[number]} have the same number")
        found[number] = name
    if not found:
        raise VideoError(Problem.EMPTY, "a folder without .jpg or .png files")
    if len(found) > MAX_FRAMES:
        raise VideoError(Problem.TOO_LARGE, f"more than {MAX_FRAMES} frames")
    rising = sorted(found)
    step = max(1, math.gcd(*(number - rising[0] for number in rising)))
    wanted = range(rising[0], rising[-1] + 1, step)
    if len(found) < len(wanted):
        missing = next(number for number in wanted if number not in found)
        apart = f", {step} apart," if step > 1 else ""
        reason = f"frame {missing} is missing, {len(found)} of {len(wanted)}{apart} are there"
        raise VideoError(Problem.TOO_FEW_FRAMES, reason, len(found))
    return [found[number] for number in rising]


def _split_name(name: str) -> tuple[str, int]:
    match = _NAME.fullmatch(name)
    if match is None or len(match[2]) > 18:
        raise VideoError(Problem.UNREADABLE, f"{name} has no frame number at its end")
    return match[1], int(match[2])


def _without_flow(names: dict[str, tuple[str, int]]) -> dict[str, int]:
    """Return {name: number}, without pictures of optical flow if there are others."""
    flow = {start for start, _ in names.values() if not _FLOW_WORDS.isdisjoint(re.findall("[a-z]+", start.lower()))}
    others = {start for start, _ in names.values()} - flow
    return {name: number for name, (start, number) in names.items() if start in others or not others}


def open_storage(root: pathlib.Path, settings: DataSettings, dataset: Dataset) -> FramesStorage:
    """Return the storage of the folders in `root`.

    Raises:
      DataError: if there is no such folder, or an index in it is damaged.
    """
    del dataset
    if not root.is_dir():
        raise DataError(f"data.storage_root = {str(root)!r}: no such folder; name the one with a folder for each video")
    index = Index("frames", root) if any(root.glob("*" + SUFFIX)) else None
    if index is not None and len({frames_folder(path) for path in index}) < len(index):
        raise DataError(f"{root}: two videos that differ only in their suffix have one folder; use another storage")
    safe = SafeFolder(root, settings.follow_links)
    return FramesStorage(root, settings.video_timeout_seconds, safe, index, settings.follow_links)


def write_shard(path: pathlib.Path, videos: Iterable[EncodedVideo], sync: bool) -> ShardSummary:
    """Write the folders of some videos beside the index `path`; see `storages.write_shard`."""
    if path != index_path(path):
        raise DataError(f"{path}: a shard of frames is named by its index, {index_path(path).name}")
    rows, seen, folders, digest = [], set(), set(), hashlib.sha256()
    for video in videos:
        rows.append(checked_video(path, video, seen))
        folder = path.parent / frames_folder(video.path)
        if video.mp4 or folder in folders:
            fault = "an .mp4 file is no folder of frames" if video.mp4 else "differs from another only in its suffix"
            raise DataError(f"{path}: {video.path!r}: {fault}; use the storage array_record")
        folders.add(folder)
        _write_folder(folder, video, digest)
    if sync and hasattr(os, "sync"):
        os.sync()  # once for all: one call for each of some thousand small files would take most of the time
    return write_index("frames", path, rows, digest.hexdigest(), sync)


def hash_shard(path: pathlib.Path) -> str:
    """Return the hash of the frames of all videos in the index `path`; see `storages.hash_shard`."""
    digest = hashlib.sha256()
    for row in read_index("frames", path)[1]:
        folder = path.parent / frames_folder(row.path)
        for number in range(row.num_frames):
            _add_frame(digest, (folder / _frame_name(number)).read_bytes())
    return digest.hexdigest()


def _add_frame(digest, jpeg: bytes) -> None:
    digest.update(len(jpeg).to_bytes(8, "big") + jpeg)


def _write_folder(folder: pathlib.Path, video: EncodedVideo, digest) -> None:
    unfinished = folder.with_name(folder.name + ".tmp")
    for leftover in (unfinished, folder):
        if leftover.exists():
            if any(entry.is_dir() for entry in leftover.iterdir()):
                raise DataError(f"{leftover}: holds other videos' frames; {video.path!r} cannot have that place too")
            shutil.rmtree(leftover)
    unfinished.mkdir(parents=True)
    for number, jpeg in enumerate(video.jpegs):
        (unfinished / _frame_name(number)).write_bytes(jpeg)
        _add_frame(digest, jpeg)
    os.replace(unfinished, folder)
