"""Kinetics-400 from its official CSV files and whatever videos a crawler could still get.

Kay et al.: "The Kinetics Human Action Video Dataset", 2017, arXiv:1705.06950. Columns label, youtube_id, time_start,
time_end, split; videos are named <youtube_id>_<start>_<end>.mp4, six digits each, in one folder or in class folders.
Any data set with files in this form is read.
"""

import pathlib
import re
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog.folder import SUFFIXES
from hvt_jax.data.sources import DataError, Dataset
from hvt_jax.settings import DataSettings

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# data.split: 1 judges on the validation set, as everybody does, 2 on the test set.
_NAMES = {"train": ("train",), 1: ("validate", "val", "validation"), 2: ("test",)}
_HOW_TO_GET = (
    "get the CSV files and videos as https://github.com/cvdfoundation/kinetics-dataset says: {root}/annotations/"
    "train.csv, {root}/annotations/val.csv (or validate.csv), {root}/train/*.mp4, {root}/val/*.mp4"
)
_ID = re.compile(r"[A-Za-z0-9_-]{11}")


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
    present = annotations.files_by_stem(folder, SUFFIXES)
    listing, missing, seen = annotations.Listing(path, folder, root), 0, {}
    for row, label, stem in rows:
        number = annotations.class_number(classes, label, f"{path}, row {row}", training[0].name)
        if seen.setdefault(stem, row) != row:
            raise DataError(f"{path}, row {row}: {stem} was listed in row {seen[stem]} before; remove one of the rows")
        if stem in present:
            listing.add(row, present[stem], number)
        else:
            missing += 1
    annotations.report_missing(path, folder, len(rows), missing)
    return Dataset(root, tuple(listing.videos), {"action": tuple(classes)})


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


def _read(path: pathlib.Path) -> tuple[pathlib.Path, list[tuple[int, str, str]]]:
    """Return the path and (row, label, file name without suffix) of every row."""
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
        rows.append((row, cells["label"], f"{cells['youtube_id']}_{times[0]:06d}_{times[1]:06d}"))
    return path, rows
