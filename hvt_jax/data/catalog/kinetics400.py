"""Kinetics-400 from its official CSV files and whatever videos a crawler could still get.

Kay et al.: "The Kinetics Human Action Video Dataset", 2017, arXiv:1705.06950. Columns label, youtube_id, time_start,
time_end, split; videos are named <youtube_id>_<start>_<end>.mp4, six digits each, in one folder or in class folders;
with fewer digits, or by the id alone, they are found too. Of a video that is there twice, the one in a folder called
replacement..., in or beside that of the split, goes before the one it replaces. Any data set in this form is read.
"""

import logging
import os
import pathlib
import re
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog.folder import SUFFIXES
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# data.split: 1 evaluates on the validation set, as everybody does, 2 on the test set.
_NAMES = {"train": ("train",), 1: ("validate", "val", "validation"), 2: ("test",)}
_HOW_TO_GET = (
    "get the CSV files and videos as https://github.com/cvdfoundation/kinetics-dataset says: {root}/annotations/"
    "train.csv, {root}/annotations/val.csv (or validate.csv), {root}/train/*.mp4, {root}/val/*.mp4"
)
_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_FILE = re.compile(r"(?:v_)?([A-Za-z0-9_-]{11})(?:_(\d{1,6})(?:\.0+)?_(\d{1,6})(?:\.0+)?)?")
_REPLACEMENT = "replacement"

_LOG = logging.getLogger(__name__)


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split without its missing videos, which the log counts; the only label set is `action`.

    `data.split` = 1 takes the validation set for `test`, 2 the test set.

    Raises:
      DataError: if a CSV file is missing or has a row that cannot be used, or if all videos are missing.
    """
    root = pathlib.Path(settings.root)
    if split == "test" and settings.split not in _NAMES:
        raise DataError(f"data.split = {settings.split}, but must be 1 (validation set) or 2 (test set)")
    training = _read(_find_csv(root, _NAMES["train"]))
    classes = annotations.number_classes({label for _, label, _ in training[1]} - {""})
    names = _NAMES["train"] if split == "train" else _NAMES[settings.split]
    path, rows = training if split == "train" else _read(_find_csv(root, names))
    folder = _find_videos(root, names)
    present, files = _find_files(root, folder, settings.follow_links)
    listing, missing, seen = annotations.Listing(path, root, settings), [], {}
    for row, label, clip in rows:
        number = annotations.class_number(classes, label, f"{path}, row {row}", training[0].name)
        if seen.setdefault(clip, row) != row:
            name = _official_name(clip)
            raise DataError(f"{path}, row {row}: {name} was listed in row {seen[clip]} before; remove one of the rows")
        if (file := present.get(clip) or present.get((clip[0],))) is not None:
            listing.add(row, file, number)
        else:
            missing.append(_official_name(clip))
    annotations.report_missing(path, folder, rows, missing, files)
    return Dataset(root, tuple(listing.videos), {"action": tuple(classes)})


def _find_files(root: pathlib.Path, folder: pathlib.Path, follow_links: bool) -> tuple[dict[tuple, str], list[str]]:
    """Return {(id, start, end) or (id,): path relative to the root}, and the paths of all videos by whatever names."""
    found, files, replaced = {}, [], 0
    beside = [root / name for name in sorted(os.listdir(root)) if name.startswith(_REPLACEMENT)]
    for place in dict.fromkeys([folder, *(path for path in beside if path.is_dir())]):
        prefix = "" if place == root else place.relative_to(root).as_posix() + "/"
        for path in annotations.list_files(place, SUFFIXES, follow_links):
            match = _FILE.fullmatch(pathlib.PurePosixPath(path).stem)
            clip = match and ((match[1], int(match[2]), int(match[3])) if match[2] else (match[1],))
            files.append(path := prefix + path)
            is_better = any(part.startswith(_REPLACEMENT) for part in path.split("/"))
            if clip and found.get(clip) != path and (clip not in found or is_better):
                replaced += clip in found
                found[clip] = path
    if replaced:
        _LOG.info("%s: %d videos are taken from folders called %s...", root, replaced, _REPLACEMENT)
    return found, files


def _official_name(clip: tuple[str, int, int]) -> str:
    return f"{clip[0]}_{clip[1]:06d}_{clip[2]:06d}"


def _find_csv(root: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path:
    files = [
        f"{folder}{prefix}{name}.csv"
        for folder in ("annotations/", "")
        for prefix in ("", "kinetics_")
        for name in names
    ]
    return annotations.first_present(root, files, _HOW_TO_GET)


def _find_videos(root: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path:
    """Return the folder of one split, or one for all splits."""
    folders = [folder + name for folder in ("", "videos/") for name in names]
    return next((root / name for name in (*folders, "videos") if (root / name).is_dir()), root)


def _read(path: pathlib.Path) -> tuple[pathlib.Path, list[tuple[int, str, tuple[str, int, int]]]]:
    """Return the path and (row, label, (id, start, end)) of every row."""
    rows = []
    for row, cells in annotations.read_columns(path, _COLUMNS):
        start, end = cells["time_start"], cells["time_end"]
        if not _ID.fullmatch(cells["youtube_id"]):
            raise DataError(
                f"{path}, row {row}: {cells['youtube_id']!r} is no YouTube id of 11 characters; get the file again, "
                "spreadsheet programs damage such ids"
            )
        try:
            times = [int(float(start)), int(float(end))]
        except (ValueError, OverflowError):
            times = [-1, -1]
        if not 0 <= times[0] < times[1] < 1_000_000:
            raise DataError(f"{path}, row {row}: {start!r} to {end!r} are no seconds in order; get the file again")
        rows.append((row, cells["label"], (cells["youtube_id"], *times)))
    return path, rows
