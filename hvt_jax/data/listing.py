"""`prepared.json`: the splits, labels and lengths of videos that were converted, so that nothing else has to be kept.

It stands beside the shards and has a row for every video of the catalog, also for those that could not be converted:
the path it is stored under, source, start and end of the segment in seconds, labels, frames, what was wrong.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from typing import Literal

from hvt_jax import disk
from hvt_jax.data import manifest
from hvt_jax.data.dataset import DataError, Dataset, Video, read_text
from hvt_jax.data.readers import MAX_FRAMES
from hvt_jax.data.storages.frames import frames_folder
from hvt_jax.settings import DataSettings

FILE_NAME = "prepared.json"
SPLITS = ("train", "test")
Source = tuple[str, float, float]  # path, start and end in seconds

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_COLUMNS = ("path", "source", "start_seconds", "end_seconds", "labels", "num_frames", "problem")
_MAX_BYTES = 1 << 30
_REMEDY = "run python -m hvt_jax prepare again"
_NOT_TEXT = re.compile("[\ud800-\udfff]")  # bytes of names that are no UTF-8
_TAKEN_ENDINGS = (".tmp", ".json")  # of what stands beside the folders of frames


def stored_names(sources: list[Source]) -> dict[Source, str]:
    """Return the path that each source is stored under: its own, changed only where that would meet another's.

    Segments get their seconds into the name. Names are such that their folders of frames, too, are different ones and
    none is inside another: a part of a hash is added where videos differ only in their suffix, for instance.
    """
    names = {source: _plain_name(*source) for source in sources}
    while meeting := _meeting(names):
        for source in meeting:
            digest = hashlib.sha256(repr(source).encode("ascii", "backslashreplace")).hexdigest()
            names[source] += f".{digest[:12]}"
    return names


def _plain_name(path: str, start: float, end: float) -> str:
    path = _NOT_TEXT.sub(lambda match: f"%{ord(match[0]) & 0xFF:02x}", path)
    if not (start or end):
        return path
    pure = pathlib.PurePosixPath(path)
    return pure.with_name(f"{pure.stem}@{start:g}-{f'{end:g}' if end else 'end'}{pure.suffix}").as_posix()


def _meeting(names: dict[Source, str]) -> list[Source]:
    """Return the sources whose folders of frames are also another's, hold another's or are not for frames."""
    by_folder: dict[str, list[Source]] = {}
    above = set()
    for source, name in names.items():
        folder = frames_folder(name)
        by_folder.setdefault(folder, []).append(source)
        above |= {parent.as_posix() for parent in pathlib.PurePosixPath(folder).parents}
    return [
        source
        for folder, found in by_folder.items()
        if len(found) > 1 or folder in above or folder.endswith(_TAKEN_ENDINGS)
        for source in found
    ]


@dataclasses.dataclass(frozen=True)
class Stored:
    """What became of a source: the path it is stored under, its frames, and why it has none."""

    name: str
    num_frames: int
    problem: str


def source_of(video: Video) -> Source:
    """Return what identifies the frames of a video."""
    return video.path, float(video.start_seconds), float(video.end_seconds)


def write_listing(
    root: pathlib.Path, settings: DataSettings, storage: str, datasets: dict[str, Dataset], stored: dict[Source, Stored]
) -> None:
    """Write the listing of the videos that were converted from the data set of `settings`.

    Args:
      root: folder of the shards.
      settings: says which data set and which official split.
      storage: name of the storage.
      datasets: both splits, as the catalog gave them.
      stored: what became of each of their videos.
    """
    names = datasets["train"].label_names
    head = {"format": _FORMAT, "name": settings.name, "split": settings.split, "storage": storage}
    head |= {"label_names": names, "columns": _COLUMNS}
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for split, dataset in datasets.items():
        dataset = dataset.with_primary(next(iter(names)))
        rows = [json.dumps(_row(video, stored[source_of(video)])) for video in dataset.videos]
        parts.append(f'"{split}": [\n' + ",\n".join(rows) + "\n]")  # a line a video, for people
    with disk.replaced(root / FILE_NAME) as unfinished:
        unfinished.write_text("{" + ",\n".join(parts) + "}\n", encoding="ascii")


def _row(video: Video, stored: Stored) -> list:
    return [stored.name, *source_of(video), [int(label) for label in video.labels], stored.num_frames, stored.problem]


def find_listing(settings: DataSettings) -> pathlib.Path | None:
    """Return the listing beside the shards that `settings` name, None if there is none."""
    if settings.storage == "raw":
        return None
    path = pathlib.Path(settings.storage_root or settings.root) / FILE_NAME
    return path if path.is_file() else None


def read_listing(path: pathlib.Path, settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split of a listing; videos that could not be converted are left out, with a line in the log.

    Raises:
      DataError: if the listing is of another data set, split or storage, or naming the row that cannot be used.
    """
    content = _read_content(path)
    for field in ("name", "split", "storage"):
        if content[field] != getattr(settings, field):
            raise DataError(
                f"{path}: was prepared with {field} = {content[field]!r}, but config.data.{field} = "
                f"{getattr(settings, field)!r}; set it so, or prepare again"
            )
    names = _checked_names(path, content["label_names"])
    videos, bad, seen = [], [], set()
    rows = content[split]
    if not isinstance(rows, list):
        raise DataError(f"{path}: {split} is no list of rows; {_REMEDY}")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, {split} row {number}"
        if reason := _reason_against(row, names):
            raise DataError(f"{where}: {reason}; {_REMEDY}")
        name, source, _, _, labels, frames, problem = row
        if name in seen:
            raise DataError(f"{where}: {name!r} was there before; {_REMEDY}")
        seen.add(name)
        if problem:
            bad.append(f"{source} ({problem})")
        else:
            videos.append(Video(name, tuple(labels), frames))
    if bad:
        line = "%s: %d of %d %s videos could not be converted and are left out: %s"
        _LOG.info(line, path, len(bad), len(rows), split, manifest.shorten(bad))
    if not videos:
        raise DataError(f"{path}: has no {split} video, {len(bad)} were not converted; {_REMEDY}")
    return Dataset(path.parent, tuple(videos), names)


def _read_content(path: pathlib.Path) -> dict:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        content = json.loads(read_text(path))
        needed = {"format", "name", "split", "storage", "label_names", "columns", *SPLITS}
        if not isinstance(content, dict) or content.keys() != needed:
            raise ValueError(f"needs exactly {', '.join(sorted(needed))}")
        if content["format"] != _FORMAT or content["columns"] != list(_COLUMNS):
            raise ValueError(f"has another format than {_FORMAT}")
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is damaged ({str(error)[:100]}); {_REMEDY}") from error
    return content


def _checked_names(path: pathlib.Path, names: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: label_names holds no label set; {_REMEDY}")
    for name, classes in names.items():
        if not name or not isinstance(classes, list) or not all(isinstance(item, str) for item in classes):
            raise DataError(f"{path}: the label set {name[:80]!r} is no list of class names; {_REMEDY}")
    return {name: tuple(classes) for name, classes in names.items()}


def _reason_against(row: object, names: dict[str, tuple[str, ...]]) -> str:
    """Return why a row cannot be used, or an empty string."""
    if not isinstance(row, list) or len(row) != len(_COLUMNS):
        return f"needs {len(_COLUMNS)} columns: {', '.join(_COLUMNS)}"
    path, source, start, end, labels, frames, problem = row
    if not all(isinstance(text, str) for text in (path, source, problem)):
        return "path, source and problem must be texts"
    if reason := manifest.reason_against_path(path):
        return f"path {path[:80]!r} {reason}"
    if not all(type(seconds) in (int, float) and 0 <= seconds < 1e9 for seconds in (start, end)):
        return f"{str(start)[:40]} to {str(end)[:40]} is no segment in seconds"
    counts = [len(classes) for classes in names.values()]
    if not isinstance(labels, list) or len(labels) != len(counts):
        return f"needs a label for each of {', '.join(names)}"
    if not all(type(label) is int and 0 <= label < count for label, count in zip(labels, counts, strict=True)):
        return f"labels {str(labels)[:80]} are not all from 0 to below {counts}"
    if type(frames) is not int or not (0 if problem else 1) <= frames <= MAX_FRAMES:
        return f"{str(frames)[:40]} is no number of frames"
    return ""
