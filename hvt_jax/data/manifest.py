"""`manifest.jsonl`: what `python -m hvt_jax.scan` found in every video; training leaves out what it names as bad.

One JSON object a line, fields as in `Entry`. An entry holds as long as size and time of change of its file do.
"""

import concurrent.futures
import dataclasses
import json
import logging
import math
import os
import pathlib

from hvt_jax.data import parallel, segments
from hvt_jax.data.containers import VideoInfo
from hvt_jax.data.problems import VideoError
from hvt_jax.data.sources import DataError, Dataset, Video, read_rows
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
      bytes: size of the file; 0 if there is none.
      mtime: when it was changed, seconds since 1970; 0 if there is none.
      frames: frames that can be asked for; 0 if it cannot be opened.
      seconds: length; 0 if unknown.
      fps: mean frames per second; 0 if unknown.
      height: pixel rows as stored, before any rotation.
      width: pixel columns as stored.
      codec: such as h264.
      rotation: degrees counter-clockwise that make a frame upright: 0, 90, 180 or 270.
      pixel_format: such as yuv420p.
      problem: why the video is bad, its kind before a colon; empty if every frame was decoded.
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


_TYPES = {field.name: field.type for field in dataclasses.fields(Entry)}


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
    known = [entries.get(video.path) for video in dataset.videos]
    current = are_current(dataset.root, [entry for entry in known if entry])
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
        _LOG.warning(
            "%s: %d of %d %s videos have changed since, such as %s; scan again", path, len(changed), len(known), split,
            changed[0],
        )  # fmt: skip
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
    info = VideoInfo(entry.frames, entry.fps, entry.height, entry.width, entry.seconds)
    try:
        return dataclasses.replace(video, num_frames=len(segments.frame_range(info, video)))
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


def are_current(root: pathlib.Path, entries: list[Entry]) -> dict[str, bool]:
    """Return for the path of each entry whether its file is the one that was looked at."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS_PER_CORE * parallel.available_cores()) as pool:
        states = pool.map(lambda entry: file_state(root / entry.path), entries)
        return {e.path: (e.bytes, e.mtime) == state for e, state in zip(entries, states, strict=True)}


def write_manifest(path: pathlib.Path, entries: list[Entry]) -> None:
    """Replace the manifest, so that a reader sees the old or the new one, never a part.

    Raises:
      DataError: if it cannot be written.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with open(unfinished, "w", encoding="ascii") as file:
            file.writelines(entry_line(entry) for entry in entries)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
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
    if not isinstance(fields, dict) or fields.keys() != _TYPES.keys():
        raise DataError(f"{where}: needs exactly the fields {', '.join(_TYPES)}; remove the file and scan again")
    for name, value in fields.items():
        if reason := _reason_against(name, value):
            shown = repr(value)[:80]
            raise DataError(f"{where}: {name} = {shown} {reason}; remove the file, it may be forged, and scan again")
    return Entry(**fields)


def _reason_against(name: str, value: object) -> str:
    """Return why a field cannot have this value, or an empty string."""
    kinds = {float: (int, float), int: (int,), str: (str,)}[_TYPES[name]]
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"must be {_TYPES[name].__name__}"
    if isinstance(value, str):
        return reason_against_path(value) if name == "path" else ""
    try:
        return "" if 0 <= value < 1e18 and math.isfinite(value) else "is out of range"
    except OverflowError:
        return "is out of range"


def reason_against_path(path: str) -> str:
    """Return why a path in a file that may be forged cannot be one of a data set, or an empty string."""
    # Only paths that the catalog has found safe are ever opened; this tells a forged file from a good one.
    pure = pathlib.PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or pathlib.PureWindowsPath(path).drive or path.startswith("\\"):
        return "is not a relative path"
    return "leads out of the data set" if ".." in pure.parts else ""
