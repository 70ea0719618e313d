"""Your own videos, listed in CSV files: rows `path,label` or `path,label,start,end`, times in seconds.

    ROOT/train.csv, ROOT/test.csv      your own split
    ROOT/data.csv                      every fifth video is for testing, chosen by a hash of its path
    ROOT/annotations/...               the same lists; what folders of frames come with (`data.storage = "frames"`)

Paths are relative to the root; the first row may name the columns. Labels are numbers or words. An end of 0 is the end
of the video, and one video may be there with several segments. Tabs, semicolons or blanks may stand for the commas.
"""

import collections
import math
import pathlib
import posixpath
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog.folder import split_by_hash
from hvt_jax.data.sources import DataError, Dataset, check_found, read_rows
from hvt_jax.settings import DataSettings

_COLUMNS = ("path", "label", "start", "end")
_Row = tuple[int, str, str, float, float]


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `class`, the labels of train.csv or data.csv in order.

    Raises:
      DataError: if there is no list, or naming the file and row that cannot be used.
    """
    root = pathlib.Path(settings.root)
    lists = root / "annotations" if (root / "annotations" / "train.csv").exists() else root
    own = lists / "train.csv", lists / "test.csv"
    if all(path.exists() for path in own):
        training, testing = (_read(path) for path in own)
        path, rows = own[split == "test"], testing if split == "test" else training
        _refuse_both(own, training, testing)
    elif (root / "data.csv").exists():
        path = root / "data.csv"
        training = _read(path)
        kept = set(split_by_hash(sorted({posixpath.normpath(row[1]) for row in training}))[split])
        rows = [row for row in training if posixpath.normpath(row[1]) in kept]
    else:
        raise DataError(f"data.root = {settings.root!r}: has neither train.csv and test.csv nor data.csv; write one")
    if not rows:
        raise DataError(f"{path}: {len(training)} row(s) leave none for {split}; add some")
    classes = _number_labels({label for _, _, label, _, _ in training})
    listing = annotations.Listing(path, root, root)
    for row, video, label, start, end in rows:
        number = annotations.class_number(classes, label, f"{path}, row {row}", own[0].name)
        listing.add(row, video, number, start, end)
    if settings.storage == "raw":
        check_found(root, listing.videos, path)
    return Dataset(root, tuple(listing.videos), {"class": tuple(classes)})


def _number_labels(labels: set[str]) -> dict[str, int]:
    """Return label → class number from 0: numbers in their order, words in theirs."""
    if all(label.isascii() and label.isdecimal() for label in labels):
        return {label: number for number, label in enumerate(sorted(labels, key=int))}
    return annotations.number_classes(labels)


def _read(path: pathlib.Path) -> list[_Row]:
    """Return (row number, path, label, start, end) of every row."""
    first = read_rows(path)[0][1]
    delimiter = next((mark for mark in ",\t; " if mark in first), ",")
    table = annotations.read_table(path, delimiter)
    order = _COLUMNS[: len(table[0][1])]
    names = [cell.lower() for cell in table[0][1]]
    if "path" in names and "label" in names:
        order, table = tuple(names), table[1:]
    if order not in (_COLUMNS[:2], _COLUMNS) and set(order) not in (set(_COLUMNS[:2]), set(_COLUMNS)):
        raise DataError(
            f"{path}, row 1: has the columns {', '.join(names)}, but needs path,label or path,label,start,end"
        )
    rows = [(number, _read_row(f"{path}, row {number}", cells, order)) for number, cells in table]
    if not rows:
        raise DataError(f"{path}: has a header and no rows; list some videos")
    return [(number, *row) for number, row in rows]


def _read_row(where: str, cells: list[str], order: tuple[str, ...]) -> tuple[str, str, float, float]:
    if len(cells) != len(order):
        raise DataError(f"{where}: has {len(cells)} columns, but needs {len(order)}: {','.join(order)}; mend the row")
    fields = dict(zip(order, cells, strict=True))
    if not fields["label"]:
        raise DataError(f"{where}: {fields['path']!r} has no label; add it or remove the row")
    try:
        start, end = (float(fields.get(name) or 0) for name in ("start", "end"))
    except ValueError:
        start = math.nan
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start and (start < end or end == 0)):
        found = f"{fields['start']!r} to {fields['end']!r}"
        raise DataError(f"{where}: {found} is no segment in seconds; needs 0 <= start < end, or end 0")
    return fields["path"], fields["label"], start, end


def _refuse_both(paths: tuple[pathlib.Path, pathlib.Path], training: list[_Row], testing: list[_Row]) -> None:
    """Raise a DataError if a segment for testing shares time with one for training; an end of 0 is the end."""
    trained = collections.defaultdict(list)
    for row, video, _, start, end in training:
        trained[posixpath.normpath(video)].append((start, end or math.inf, row))
    for row, video, _, start, end in testing:
        for other_start, other_end, other in trained.get(posixpath.normpath(video), ()):
            if start < other_end and other_start < (end or math.inf):
                where = f"{video!r} is in row {other} of {paths[0].name} too, or shares time with it"
                raise DataError(f"{paths[1]}, row {row}: {where}; a test video must not train")
