"""How a row of a list is cut into columns, and what headers of other tools call these."""

import csv
import io
import pathlib
import re
from collections.abc import Callable, Sequence

from hvt_jax.data import annotations
from hvt_jax.data.dataset import DataError

Table = list[tuple[int, list[str]]]  # row number from 1, cells
SEPARATOR_ROW = re.compile(r"\"?sep=(.?)\1*\"?", re.IGNORECASE)  # spreadsheets write and obey it
COMMENT = re.compile(r"#+(\s|$)")
MARKS = {"commas": ",", "tabs": "\t", "semicolons": ";", "bars": "|", "blanks": " "}
# What other tools call our columns, without blanks, - and _; of several in one header the first here is meant.
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


def plain_names(cells: list[str]) -> list[str]:
    """Return cells without what spellings of one name differ in."""
    return ["".join(c for c in cell.lower() if c not in " _-#") for cell in cells]


def named_columns(names: list[str]) -> dict[str, int]:
    """Return {column: its place} as far as a header names them."""
    found = {column: _first(names, known.split()) for column, known in _NAMES.items()}
    return {column: place for column, place in found.items() if place is not None}


def is_header(cells: list[str]) -> bool:
    """Return whether cells name the columns that every list has."""
    return {"path", "label"} <= named_columns(plain_names(cells)).keys()


def _first(names: list[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def is_counted(row: list[str]) -> bool:
    """Return whether a row is a path, a number of frames and a numbered label, -1 where there is none (VideoMAE)."""
    return row[1].isdecimal() and row[2].removeprefix("-").isdecimal()


def _first_rows(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the first row, and the first that does not begin with #: one of them is no comment."""
    return [lines[0], *[line for line in lines if not line[1].startswith("#")][:1]]


def by_mark(mark: str) -> Callable[[pathlib.Path, list[tuple[int, str]]], Table | None]:
    """Return what reads the rows of a file whose columns `mark` separates; None where it does not."""

    def read(path: pathlib.Path, lines: list[tuple[int, str]]) -> Table | None:
        if not any(mark in text for _, text in _first_rows(lines)):
            return None
        try:
            return annotations.read_table(path, mark)
        except DataError:  # said again if nothing else fits
            return None

    return read


def _by_blanks(path: pathlib.Path, lines: list[tuple[int, str]]) -> Table | None:
    """Read rows whose paths hold no blanks, or are quoted."""
    del path
    if not any(" " in text for _, text in _first_rows(lines)):
        return None
    try:
        cells = [next(csv.reader(io.StringIO(text), delimiter=" ", strict=True)) for _, text in lines]
    except (csv.Error, StopIteration):
        return None
    table = [(number, [cell for cell in row if cell]) for (number, _), row in zip(lines, cells, strict=True)]
    has_header = is_header(table[0][1])
    rows = [row for _, row in table if not row[0].startswith("#")]
    has_counts = all(len(row) == 3 and is_counted(row) for row in rows)
    return table if has_header or has_counts or all(len(row) in (2, 4) for row in rows) else None


def _by_last_blank(path: pathlib.Path, lines: list[tuple[int, str]]) -> Table:
    del path
    return [(number, [cell.strip("\"'") for cell in text.rsplit(None, 1)]) for number, text in lines]


SEPARATORS = {words: by_mark(mark) for words, mark in MARKS.items() if mark != " "}
SEPARATORS |= {"blanks": _by_blanks, "the last blank": _by_last_blank}
