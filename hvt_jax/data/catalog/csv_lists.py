"""Your own videos, listed in CSV files: rows `path,label` or `path,label,start,end`, times in seconds.

    ROOT/train.csv, ROOT/test.csv      your own split; also val.csv, and endings .tsv and .txt
    ROOT/data.csv                      every fifth video is for testing, chosen by a hash of its path
    ROOT/annotations/...               the same lists; what folders of frames come with (`data.storage = "frames"`)

Paths are relative to the root, or absolute in it. The first row may name the columns, in the words of many tools
(`filename`, `video_path`, `class`, `tag`...), and then there may be further ones. Labels are numbers or words. An end
of 0 is the end of the video, and one video may be there with several segments. Tabs, semicolons, bars or blanks may
stand for the commas: what fits all rows, and finds the files, or what a first row `sep=;` says. Rows that begin with #
are comments if they have another number of columns, or a blank after the # and no file of their name.
"""

import collections
import dataclasses
import logging
import math
import os
import pathlib
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog import list_columns
from hvt_jax.data.catalog.folder import split_by_hash
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, check_found, read_rows
from hvt_jax.settings import DataSettings

_COLUMNS = ("path", "label", "start", "end")
_SAMPLE = 20  # rows whose files are looked for
_Row = tuple[int, str, str, float, float, str]  # row, path, label, start, end, path as it is written


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `class`, the labels of train.csv or data.csv in order.

    Raises:
      DataError: if there is no list, or naming the file and row that cannot be used.
    """
    root = pathlib.Path(settings.root)
    lists = root / "annotations" if _find(root / "annotations", "train") else root
    own, alone = (_find(lists, "train"), _find(lists, "test", "val", "valid", "validation")), _find(root, "data")
    reader = _Reader(settings)
    if all(own):
        training, testing = (reader.read(path) for path in own)
        path, rows = own[split == "test"], testing if split == "test" else training
        _refuse_both(own, training, testing)
    elif alone:
        path, training = alone, reader.read(alone)
        kept = set(split_by_hash(sorted({row[1] for row in training}))[split])
        rows = [row for row in training if row[1] in kept]
    elif own[0]:
        if split == "test":
            raise DataError(f"{own[0]}: has no test.csv (or val.csv) beside it; write one, or call it data.csv")
        path, rows = own[0], (training := reader.read(own[0]))
    else:
        raise DataError(f"data.root = {settings.root!r}: has neither train.csv and test.csv nor data.csv; write one")
    if not rows:
        raise DataError(f"{path}: {len(training)} row(s) leave none for {split}; add some")
    classes = _number_labels({row[2] for row in training})
    listing, known_from = annotations.Listing(path, root, settings), (own[0] or path).name
    for row, video, label, start, end, _ in rows:
        number = annotations.class_number(classes, label, f"{path}, row {row}", known_from)
        listing.add(row, video, number, start, end)
    if settings.storage == "raw":
        check_found(root, listing.videos, path)
    return Dataset(root, tuple(listing.videos), {"class": tuple(classes)})


def read_list(path: pathlib.Path, settings: DataSettings) -> Dataset:
    """Return all videos of one list, in its order, whatever it is called; it may name paths alone, one a row.

    The only label set is `class`; none where there are paths alone.

    Raises:
      DataError: naming the file and the row that cannot be used.
    """
    root, reader = pathlib.Path(settings.root), _Reader(settings)
    listing = annotations.Listing(path, root, settings)
    if (paths := reader.paths_alone(path)) is not None:
        for row, video in paths:
            listing.add(row, video, 0)
        return Dataset(root, tuple(dataclasses.replace(video, labels=()) for video in listing.videos), {})
    rows = reader.read(path)
    classes = _number_labels({row[2] for row in rows})
    for row, video, label, start, end, _ in rows:
        listing.add(row, video, classes[label], start, end)
    check_found(root, listing.videos, path)
    return Dataset(root, tuple(listing.videos), {"class": tuple(classes)})


def _find(folder: pathlib.Path, *stems: str) -> pathlib.Path | None:
    names = [f"{stem}.{ending}" for stem in stems for ending in ("csv", "tsv", "txt")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _number_labels(labels: set[str]) -> dict[str, int]:
    """Return label → class number from 0: numbers in their order, words in theirs."""
    if all(label.isascii() and label.removeprefix("-").isdecimal() for label in labels):
        return {label: number for number, label in enumerate(sorted(labels, key=int))}
    return annotations.number_classes(labels)


class _Reader:
    """Reads lists, looking for the files they name where it is not clear how a list is meant."""

    def __init__(self, settings: DataSettings):
        self._settings = settings
        self._root = pathlib.Path(settings.root)
        self._safe = SafeFolder(self._root, settings.follow_links)

    def read(self, path: pathlib.Path) -> list[_Row]:
        """Return every row, its path relative to the root."""
        separator, table = self._split(path)
        count = len(table[0][1])
        order, table = self._columns(path, separator, table)
        rows = []
        for number, cells in table:
            where = f"{path}, row {number}"
            if len(cells) != count and any(cells[count:] or ["short"]):
                raise DataError(
                    f"{where}: has {len(cells)} columns, but needs {count}, separated by {separator}: "
                    f"{','.join(order)}; mend the row"
                )
            name, *rest = _read_row(where, cells, order)
            rows.append((number, annotations.safe_name(self._safe, name, where), *rest, name))
        if not rows:
            raise DataError(f"{path}: has a header and no rows; list some videos")
        return rows

    def paths_alone(self, path: pathlib.Path) -> list[tuple[int, str]] | None:
        """Return every row of a list that is nothing but a path to a file, None if it is no such list."""
        rows = [(number, text.strip("\"'")) for number, text in read_rows(path)]
        if "path" in list_columns.named_columns(list_columns.plain_names([rows[0][1]])):
            rows = rows[1:]
        names = [self._safe.locate(text).replace("\0", "") for _, text in rows[:_SAMPLE]]
        return rows if any(os.path.isfile(os.path.join(self._root, name)) for name in names) else None

    def _split(self, path: pathlib.Path) -> tuple[str, list_columns.Table]:
        """Return what separates the columns, in words, and the cells of every row that is no comment."""
        lines = read_rows(path)
        separators = list_columns.SEPARATORS
        if named := list_columns.SEPARATOR_ROW.fullmatch(lines[0][1]):
            mark, lines = named[1] or "\t", lines[1:]  # of a tab nothing is left at the end of a row
            separators = {repr(mark): list_columns.by_mark(mark)}
        if not lines:
            raise DataError(f"{path}: names its separator and has no rows; list some videos")
        fitting = []
        for words, read in separators.items():
            table = [row for row in read(path, lines) or () if row[0] >= lines[0][0]]
            kept = self._without_comments(table)
            lengths = {len(cells) for _, cells in kept}
            if len(lengths) == 1 and min(lengths) > 1:
                fitting.append((words, kept, len(table) - len(kept)))
        if fitting:  # the first of those that find the most files
            words, table, comments = max(fitting, key=lambda found: self._count_files(found[1]))
            if comments:
                annotations.say_once(
                    logging.INFO, f"{path}: {comments} rows that begin with # are comments and left out"
                )
            return words, table
        words, mark = next(
            ((words, mark) for words, mark in list_columns.MARKS.items() if mark in lines[0][1]), ("commas", ",")
        )
        return words, [row for row in annotations.read_table(path, mark) if row[0] >= lines[0][0]]

    def _without_comments(self, table: list_columns.Table) -> list_columns.Table:
        """Return the rows without those that begin with # and have another number of columns than all the others.

        One that has as many could be a video: it stays unless a blank or nothing follows the #, and no file has its
        name. Header and rows over several lines stay, too.
        """
        lengths = {len(cells) for _, cells in table if not cells[0].startswith("#")}
        if len(lengths) != 1:
            return table
        (count,) = lengths

        def is_row(cells: list[str], *, is_first: bool) -> bool:
            if not cells[0].startswith("#") or any("\n" in cell for cell in cells):
                return True
            if is_first and list_columns.is_header(cells):
                return True
            could_be = self._settings.storage != "raw" or not list_columns.COMMENT.match(cells[0])
            return len(cells) == count and (could_be or any(map(self._exists, cells)))

        return [row for place, row in enumerate(table) if is_row(row[1], is_first=place == 0)]

    def _count_files(self, table: list_columns.Table) -> int:
        return sum(self._exists(cells[0]) for _, cells in table[:_SAMPLE])

    def _exists(self, name: str) -> bool:
        name = self._safe.locate(name)
        if self._safe.reason_against(name):
            return False
        roots = {self._settings.storage_root or self._settings.root, self._settings.root}
        paths = [os.path.join(root, stem) for root in roots for stem in (name, os.path.splitext(name)[0])]
        return any(os.path.exists(path) for path in paths)

    def _columns(
        self, path: pathlib.Path, separator: str, table: list_columns.Table
    ) -> tuple[dict[str, int], list_columns.Table]:
        """Return {column: its place} and the rows without the header."""
        first, names = table[0][0], list_columns.plain_names(table[0][1])
        order = list_columns.named_columns(names)
        if {"path", "label"} <= order.keys():
            for column, place in order.items():
                if names.count(names[place]) > 1:
                    raise DataError(
                        f"{path}, row {first}: has two columns {table[0][1][place]!r}, the {column}; rename one"
                    )
            return order, table[1:]
        shown = ", ".join(table[0][1])
        if len(names) == 3 and all(list_columns.is_counted(row) for _, row in table if len(row) == 3):
            return {"path": 0, "label": 2}, table  # between them the number of frames
        if len(names) not in (2, 4):
            raise DataError(
                f"{path}, row {first}: has the columns {shown} (separated by {separator}), but needs path,label or "
                "path,label,start,end, or a header that names path and label"
            )
        if self._is_header(table):
            raise DataError(f"{path}, row {first}: {shown} seems to be a header; name the columns path and label in it")
        return {column: place for place, column in enumerate(_COLUMNS[: len(names)])}, table

    def _is_header(self, table: list_columns.Table) -> bool:
        """Return whether the first row looks like names of columns, by words that are not known here."""
        (_, (path, label, *_)), *rest = [row for row in table[: _SAMPLE + 1] if len(row[1]) > 1]
        ending, endings = os.path.splitext(path)[1], {os.path.splitext(cells[0])[1] for _, cells in rest}
        is_other = ending not in endings or (not label.isdecimal() and all(cells[1].isdecimal() for _, cells in rest))
        is_alone = label not in {cell for _, cells in table[1:] for cell in cells[1:2]}
        return bool(rest) and is_other and is_alone and not self._exists(path) and self._exists(rest[0][1][0])


def _read_row(where: str, cells: list[str], order: dict[str, int]) -> tuple[str, str, float, float]:
    fields = {column: cells[place] for column, place in order.items()}
    if not fields["label"]:
        raise DataError(f"{where}: {fields['path']!r} has no label; add it or remove the row")
    try:
        start, end = (float(fields.get(name) or 0) for name in ("start", "end"))
    except ValueError:
        start = math.nan
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start and (start < end or end == 0)):
        found = f"{fields.get('start', '')!r} to {fields.get('end', '')!r}"
        raise DataError(f"{where}: {found} is no segment in seconds; needs 0 <= start < end, or end 0")
    return fields["path"], fields["label"], start, end


def _refuse_both(paths: tuple[pathlib.Path, pathlib.Path], training: list[_Row], testing: list[_Row]) -> None:
    """Raise a DataError if a segment for testing shares time with one for training; an end of 0 is the end."""
    trained = collections.defaultdict(list)
    for row, video, _, start, end, _ in training:
        trained[video].append((start, end or math.inf, row))
    for row, video, _, start, end, written in testing:
        for other_start, other_end, other in trained.get(video, ()):
            if start < other_end and other_start < (end or math.inf):
                where = f"{written!r} is in row {other} of {paths[0].name} too, or shares time with it"
                raise DataError(f"{paths[1]}, row {row}: {where}; a test video must not train")
