"""`manifest.jsonl`: what `python -m hvt_jax scan` found in every video; training leaves out what it names as bad.

One JSON object a line, fields as in `Entry`. An entry holds for the storage that was looked at, and as long as size and
time of change of its file, or folder of frames, do.
"""

import concurrent.futures
import dataclasses
import json
import logging
import math
import os
import pathlib

from hvt_jax import disk
from hvt_jax.data import parallel
from hvt_jax.data.dataset import DataError, Dataset, Video, read_rows
from hvt_jax.data.problems import VideoError
from hvt_jax.data.readers import VideoInfo, frame_range
from hvt_jax.data.storages.frames import find_folder
from hvt_jax.settings import DataSettings

FILE_NAME = "manifest.jsonl"
NAMED = 10  # bad videos in a line of the log

_LOG = logging.getLogger(__name__)
_THREADS_PER_CORE = 8  # asking for the size of a file on a network disk is all waiting
_HANDFUL = 5


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of one file.

    Attributes:
      path: relative to the root of the data set, with `/` between folders.
      bytes: size of the file, or of the folder as such; 0 if there is none.
      mtime: when it was changed, seconds since 1970, less than 0 before; 0 if there is none.
      frames: frames that can be asked for; 0 if it cannot be opened.
      seconds: length; 0 if unknown.
      fps: mean frames per second; 0 if unknown.
      height: pixel rows as stored, before any rotation.
      width: pixel columns as stored.
      codec: such as h264.
      rotation: degrees counter-clockwise that make a frame upright: 0, 90, 180 or 270.
      mirrored: 1 if left and right must be exchanged before that, else 0.
      pixel_format: such as yuv420p.
      problem: why the video is bad, its kind before a colon; empty if every frame was decoded.
      start: when the first frame is shown, seconds from the start of the file.
      video_streams: in the file; of several the one is read that players show.
      storage: where it was looked at, raw or frames; empty if an earlier version wrote it, which called some good raw
        videos bad.
    """

    path: str
    bytes: int
    mtime: float
    frames: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    rotation: int = 0
    pixel_format: str = ""
    problem: str = ""
    mirrored: int = 0
    start: float = 0.0
    video_streams: int = 1
    storage: str = "raw"


_TYPES = {field.name: field.type for field in dataclasses.fields(Entry)}
_LATER = frozenset(("mirrored", "start", "video_streams", "storage"))  # that earlier versions did not write


def find_manifest(settings: DataSettings) -> pathlib.Path:
    """Return where the manifest of `settings` is, or would be; there may be none."""
    name = "" if settings.manifest == "none" else settings.manifest
    return pathlib.Path(name) if name else pathlib.Path(settings.root) / FILE_NAME


def apply_manifest(settings: DataSettings, split: str, dataset: Dataset) -> Dataset:
    """Return `dataset` without what its manifest says is bad, the frames of the rest filled in.

    Videos whose file has changed since, or that the manifest does not know, stay as they are, with a warning.

    Raises:
      DataError: if the manifest that is asked for does not exist, is damaged or leaves no video.
    """
    path = find_manifest(settings)
    if settings.manifest == "none" or not (settings.manifest or path.exists()):
        return dataset
    entries = {entry.path: entry for entry in read_manifest(path)}
    if others := {entry.storage or "raw" for entry in entries.values()} - {settings.storage}:
        _LOG.info("%s: is of data.storage = %s, not of %s, and does not count", path, min(others), settings.storage)
        return dataset
    if any(not entry.storage for entry in entries.values()):
        _LOG.info("%s: was written by an earlier version, which called good videos bad; scan again", path)
    known = [entries.get(video.path) for video in dataset.videos]
    current = are_current(settings, dataset.root, [entry for entry in known if entry])
    kept, bad, changed = [], [], []
    for video, entry in zip(dataset.videos, known, strict=True):
        if entry is None or not current[entry.path]:
            kept.append(video)
            changed += [video.path] if entry else []
        elif entry.problem:
            bad.append(f"{entry.path} ({entry.problem})")
        else:
            kept.append(_with_frames(video, entry))
    if changed:
        line = "%s: %d of %d %s videos have changed since, such as %s; scan again"
        _LOG.warning(line, path, len(changed), len(known), split, changed[0])
    if unknown := known.count(None):
        _LOG.warning("%s: does not know %d of %d %s videos; scan again", path, unknown, len(known), split)
    if bad:
        _LOG.info("%s: %d of %d %s videos are bad and left out: %s", path, len(bad), len(known), split, shorten(bad))
    if not kept:
        raise DataError(f"{path}: all {len(bad)} {split} videos are bad: {shorten(bad)}; repair them and scan again")
    return dataclasses.replace(dataset, videos=tuple(kept))


def _with_frames(video: Video, entry: Entry) -> Video:
    if video.num_frames is not None:
        return video
    info = VideoInfo(entry.frames, entry.fps, entry.height, entry.width, entry.seconds, start_seconds=entry.start)
    try:
        return dataclasses.replace(video, num_frames=len(frame_range(info, video)))
    except VideoError:  # a segment beyond the end: reading it will say so
        return video


def shorten(names: list[str]) -> str:
    """Return the first names as one line, and how many more there are."""
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def are_too_many(bad: int, total: int, max_fraction: float) -> bool:
    """Return whether `bad` of `total` videos are more than data.max_bad_fraction allows.

    In a small data set one video is already more than a per cent: up to four bad videos are let through as long as
    they are less than half of all. With a fraction of 0 the first one is too many.
    """
    if max_fraction == 0:
        return bad > 0
    return bad > max_fraction * total and (bad >= _HANDFUL or 2 * bad >= total)


def file_state(path: pathlib.Path) -> tuple[int, float]:
    """Return size in bytes and time of change, (0, 0.0) if there is no such file."""
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime
    except (OSError, ValueError):
        return 0, 0.0


def place(settings: DataSettings, root: pathlib.Path, path: str) -> pathlib.Path:
    """Return the file of a video, or the folder of its frames."""
    if settings.storage == "frames":
        return find_folder(pathlib.Path(settings.storage_root or root), path)
    return root / path


def are_current(settings: DataSettings, root: pathlib.Path, entries: list[Entry]) -> dict[str, bool]:
    """Return for the path of each entry whether its file, or folder, is the one that was looked at."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS_PER_CORE * parallel.available_cores()) as pool:
        states = pool.map(lambda entry: file_state(place(settings, root, entry.path)), entries)
        return {e.path: (e.bytes, e.mtime) == state for e, state in zip(entries, states, strict=True)}


def write_manifest(path: pathlib.Path, entries: list[Entry]) -> None:
    """Replace the manifest.

    Raises:
      DataError: if it cannot be written.
    """
    try:
        with disk.replaced(path) as unfinished, open(unfinished, "w", encoding="ascii") as file:
            file.writelines(entry_line(entry) for entry in entries)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a file that can be written with --manifest") from error


def entry_line(entry: Entry) -> str:
    """Return an entry as a line of the file; names that are no UTF-8 survive, as escapes."""
    return json.dumps(dataclasses.asdict(entry), allow_nan=False) + "\n"


def read_manifest(path: pathlib.Path) -> list[Entry]:
    """Return the entries of a manifest.

    Raises:
      DataError: naming the row that is no entry, leads out of the data set or repeats a path.
    """
    entries, rows = [], {}
    for row, text in read_rows(path):
        entry = parse_entry(text, f"{path}, row {row}")
        if entry.path in rows:
            raise DataError(f"{path}, row {row}: {entry.path!r} was in row {rows[entry.path]} before; scan again")
        rows[entry.path] = row
        entries.append(entry)
    return entries


def parse_entry(text: str, where: str) -> Entry:
    """Return the entry in one row; `where` names the row in errors.

    Raises:
      DataError: if it is none.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({str(error)[:80]}); remove the file and scan again") from None
    if not isinstance(fields, dict) or not _TYPES.keys() - _LATER <= fields.keys() <= _TYPES.keys():
        raise DataError(f"{where}: needs exactly the fields {', '.join(_TYPES)}; remove the file and scan again")
    for name, value in fields.items():
        if reason := _reason_against(name, value):
            shown = repr(value)[:80]
            raise DataError(f"{where}: {name} = {shown} {reason}; remove the file and scan again")
    return Entry(**{"storage": "", **fields})


def _reason_against(name: str, value: object) -> str:
    """Return why a field cannot have this value, or an empty string."""
    kinds = {float: (int, float), int: (int,), str: (str,)}[_TYPES[name]]
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"must be {_TYPES[name].__name__}"
    if isinstance(value, str):
        return reason_against_path(value) if name == "path" else ""
    try:
        least = -1e18 if name == "mtime" else 0  # before 1970, as archives and network disks have it
        return "" if least <= value < 1e18 and math.isfinite(value) else "is out of range"
    except OverflowError:
        return "is out of range"


def reason_against_path(path: str) -> str:
    """Return why a path in a file that may be forged cannot be one of a data set, or an empty string."""
    # Only paths that the catalog has found safe are ever opened; this tells a forged file from a good one.
    pure = pathlib.PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute():
        return "is not a relative path"
    return "leads out of the data set, it may be forged" if ".." in pure.parts else ""
