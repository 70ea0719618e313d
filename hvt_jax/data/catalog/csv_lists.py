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
import csv
import io
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog.folder import split_by_hash
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, check_found, read_rows
from hvt_jax.settings import DataSettings

_LOG = logging.getLogger(__name__)
_COLUMNS = ("path", "label", "start", "end")
# What other tools call them, without blanks, - and _; of several in one header the first here is meant.
_NAMES = {
    "path": "path filepath videopath clippath imagepath framespath framesfolder framesdir relativepath relpath "
    "fullpath file filename fname videofile videofilename videoname clipfile clipname clip imagename image video "
    "videos frames folder directory dir name uri src source media location videoid clipid vid id",
    "label": "label labels labelname class classname classes category categoryname categories tag tags action "
    "actionlabel actionname activity target targets gt groundtruth verb labelid labelidx labelindex classid classidx "
    "classindex categoryid actionid y",
    "start": "start startseconds startsec starttime timestart tstart begin begintime from onset",
    "end": "end endseconds endsec endtime timeend tend stop stoptime to",
}
_SAMPLE = 20  # rows whose files are looked for
_Row = tuple[int, str, str, float, float, str]  # row, path, label, start, end, path as it is written
_Table = list[tuple[int, list[str]]]


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

    def _split(self, path: pathlib.Path) -> tuple[str, _Table]:
        """Return what separates the columns, in words, and the cells of every row that is no comment."""
        lines = read_rows(path)
        separators = _SEPARATORS
        if named := _SEPARATOR_ROW.fullmatch(lines[0][1]):
            mark, lines = named[1] or "\t", lines[1:]  # of a tab nothing is left at the end of a row
            separators = {next((words for words, known in _MARKS.items() if known == mark), repr(mark)): _by_mark(mark)}
        if not lines:
            raise DataError(f"{path}: names its separator and has no rows; list some videos")
        fitting = []
        for words, read in separators.items():
            table = [row for row in read(path, lines) or () if row[0] >= lines[0][0]]
            table = self._without_comments(table)
            lengths = {len(cells) for _, cells in table}
            if len(lengths) == 1 and min(lengths) > 1:
                fitting.append((words, table))
        if fitting:  # the first of those that find the most files
            words, table = (
                max(fitting, key=lambda found: self._count_files(found[1])) if len(fitting) > 1 else fitting[0]
            )
            if left_out := sorted({number for number, _ in lines} - {number for number, _ in table}):
                _LOG.info("%s: row %d is a comment and left out, and %d more", path, left_out[0], len(left_out) - 1)
            return words, table
        words, mark = next(((words, mark) for words, mark in _MARKS.items() if mark in lines[0][1]), ("commas", ","))
        return words, [row for row in annotations.read_table(path, mark) if row[0] >= lines[0][0]]

    def _without_comments(self, table: _Table) -> _Table:
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
            if is_first and {"path", "label"} <= _named_columns(_plain_names(cells)).keys():
                return True
            could_be = self._settings.storage != "raw" or not _COMMENT.match(cells[0])
            return len(cells) == count and (could_be or any(map(self._exists, cells)))

        return [row for place, row in enumerate(table) if is_row(row[1], is_first=place == 0)]

    def _count_files(self, table: _Table) -> int:
        return sum(self._exists(cells[0]) for _, cells in table[:_SAMPLE])

    def _exists(self, name: str) -> bool:
        name = self._safe.locate(name)
        if self._safe.reason_against(name):
            return False
        roots = {self._settings.storage_root or self._settings.root, self._settings.root}
        paths = [os.path.join(root, stem) for root in roots for stem in (name, os.path.splitext(name)[0])]
        return any(os.path.exists(path) for path in paths)

    def _columns(self, path: pathlib.Path, separator: str, table: _Table) -> tuple[dict[str, int], _Table]:
        """Return {column: its place} and the rows without the header."""
        first, names = table[0][0], _plain_names(table[0][1])
        order = _named_columns(names)
        if {"path", "label"} <= order.keys():
            for column, place in order.items():
                if names.count(names[place]) > 1:
                    raise DataError(
                        f"{path}, row {first}: has two columns {table[0][1][place]!r}, the {column}; rename one"
                    )
            return order, table[1:]
        shown = ", ".join(table[0][1])
        if len(names) == 3 and all(_is_counted(row) for _, row in table if len(row) == 3):
            return {"path": 0, "label": 2}, table  # between them the number of frames
        if len(names) not in (2, 4):
            raise DataError(
                f"{path}, row {first}: has the columns {shown} (separated by {separator}), but needs path,label or "
                "path,label,start,end, or a header that names path and label"
            )
        if self._is_header(table):
            raise DataError(f"{path}, row {first}: {shown} seems to be a header; name the columns path and label in it")
        return {column: place for place, column in enumerate(_COLUMNS[: len(names)])}, table

    def _is_header(self, table: _Table) -> bool:
        """Return whether the first row looks like names of columns, by words that are not known here."""
        (_, (path, label, *_)), *rest = [row for row in table[: _SAMPLE + 1] if len(row[1]) > 1]
        ending, endings = os.path.splitext(path)[1], {os.path.splitext(cells[0])[1] for _, cells in rest}
        is_other = ending not in endings or (not label.isdecimal() and all(cells[1].isdecimal() for _, cells in rest))
        is_alone = label not in {cell for _, cells in table[1:] for cell in cells[1:2]}
        return bool(rest) and is_other and is_alone and not self._exists(path) and self._exists(rest[0][1][0])


def _plain_names(cells: list[str]) -> list[str]:
    return ["".join(c for c in cell.lower() if c not in " _-#") for cell in cells]


def _named_columns(names: list[str]) -> dict[str, int]:
    """Return {column: its place} as far as a header names them."""
    found = {column: _first(names, known.split()) for column, known in _NAMES.items()}
    return {column: place for column, place in found.items() if place is not None}


def _first(names: list[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _is_counted(row: list[str]) -> bool:
    """Return whether a row is a path, a number of frames and a numbered label, -1 where there is none (VideoMAE)."""
    return row[1].isdecimal() and row[2].removeprefix("-").isdecimal()


def _first_rows(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the first row, and the first that does not begin with #: one of them is no comment."""
    return [lines[0], *[line for line in lines if not line[1].startswith("#")][:1]]


def _by_mark(mark: str) -> Callable[[pathlib.Path, list[tuple[int, str]]], _Table | None]:
    def read(path: pathlib.Path, lines: list[tuple[int, str]]) -> _Table | None:
        if not any(mark in text for _, text in _first_rows(lines)):
            return None
        try:
            return annotations.read_table(path, mark)
        except DataError:  # said again if nothing else fits
            return None

    return read


def _by_blanks(path: pathlib.Path, lines: list[tuple[int, str]]) -> _Table | None:
    """Read rows whose paths hold no blanks, or are quoted."""
    del path
    if not any(" " in text for _, text in _first_rows(lines)):
        return None
    try:
        cells = [next(csv.reader(io.StringIO(text), delimiter=" ", strict=True)) for _, text in lines]
    except (csv.Error, StopIteration):
        return None
    table = [(number, [cell for cell in row if cell]) for (number, _), row in zip(lines, cells, strict=True)]
    has_header = {"path", "label"} <= _named_columns(_plain_names(table[0][1])).keys()
    rows = [row for _, row in table if not row[0].startswith("#")]
    has_counts = all(len(row) == 3 and _is_counted(row) for row in rows)
    return table if has_header or has_counts or all(len(row) in (2, 4) for row in rows) else None


def _by_last_blank(path: pathlib.Path, lines: list[tuple[int, str]]) -> _Table:
    del path
    return [(number, [cell.strip("\"'") for cell in text.rsplit(None, 1)]) for number, text in lines]


_SEPARATOR_ROW = re.compile(r"\"?sep=(.?)\1*\"?", re.IGNORECASE)  # spreadsheets write and obey it
_COMMENT = re.compile(r"#+(\s|$)")
_MARKS = {"commas": ",", "tabs": "\t", "semicolons": ";", "bars": "|", "blanks": " "}
_SEPARATORS = {words: _by_mark(mark) for words, mark in _MARKS.items() if mark != " "}
_SEPARATORS |= {"blanks": _by_blanks, "the last blank": _by_last_blank}


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
