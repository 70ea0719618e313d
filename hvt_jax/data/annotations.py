"""Rows of annotation files and the videos they name, checked before anything is opened; shared by `catalog`."""

import csv
import functools
import io
import logging
import os
import pathlib
import posixpath
from collections.abc import Collection, Mapping

from hvt_jax.data.sources import DataError, SafeFolder, Video, read_text

_LOG = logging.getLogger(__name__)


def read_table(path: pathlib.Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Return (row number from 1, cells without outer blanks) of every row of a CSV file that is not blank.

    Raises:
      DataError: if there is no such file, it is no UTF-8 text, its quotes do not match, or it holds no row.
    """
    reader, rows, number = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True), [], 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((number, cells))
            number = reader.line_num + 1  # a quoted cell may hold line ends
    except csv.Error as error:
        raise DataError(f"{path}, row {number}: is no CSV ({error}); mend the row or get the file again") from error
    if not rows:
        raise DataError(f"{path}: is empty; get the annotation files again")
    return rows


def read_columns(path: pathlib.Path, needed: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Return (row number, {column: cell}) of a CSV file whose first row names its columns, `needed` among them.

    Raises:
      DataError: if a column is missing or there twice, a row has another number of cells, or as `read_table`.
    """
    (_, header), *rows = read_table(path)
    header = [name.lower() for name in header]
    for name in needed:
        if header.count(name) != 1:
            raise DataError(
                f"{path}, row 1: needs one column {name!r}, but has {', '.join(header)}; get the file again"
            )
    for number, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, row {number}: has {len(cells)} columns, but the header has {len(header)}; mend the row"
            )
    return [(number, dict(zip(header, cells, strict=True))) for number, cells in rows]


class Listing:
    """The videos that one annotation file lists; refuses rows that climb out of the folder or come twice."""

    def __init__(self, path: pathlib.Path, folder: pathlib.Path, root: pathlib.Path):
        """Collect rows of the file `path`, whose names are relative to `folder`, itself in `root`."""
        self.videos: list[Video] = []
        self._path, self._safe = path, SafeFolder(folder)
        self._prefix = folder.relative_to(root).as_posix() + "/" if folder != root else ""
        self._rows: dict[tuple[str, float, float], tuple[int, int]] = {}

    def add(self, row: int, name: str, label: int, start_seconds: float = 0.0, end_seconds: float = 0.0) -> None:
        """Add the video `name`, listed in `row`.

        Raises:
          DataError: naming file and row, if the name leads out of the folder or was listed before.
        """
        where = f"{self._path}, row {row}"
        if reason := self._safe.reason_against(name):
            raise DataError(f"{where}: {name!r} {reason}; remove the row, this list may be forged")
        name = posixpath.normpath(name)  # the same file under two spellings is listed twice, too
        key = (name, start_seconds, end_seconds)
        before, other = self._rows.setdefault(key, (row, label))
        if before != row:
            how = "" if other == label else " with another label"
            raise DataError(f"{where}: {name!r} was listed in row {before} before{how}; remove one of the rows")
        self.videos.append(Video(self._prefix + name, (label,), None, start_seconds, end_seconds))


def number_classes(names: Collection[str]) -> dict[str, int]:
    """Return class name → class number from 0, in alphabetical order."""
    return {name: number for number, name in enumerate(sorted(names))}


def class_number(classes: Mapping[str, int], name: str, where: str, known_from: str) -> int:
    """Return the number of a class.

    Raises:
      DataError: naming `where` the class was read and the file it is not in.
    """
    if not name:
        raise DataError(f"{where}: has no label; add it or remove the row")
    if name not in classes:
        raise DataError(f"{where}: class {name!r} is not in {known_from}; correct it or remove the row")
    return classes[name]


def first_present(root: pathlib.Path, names: Collection[str], how_to_get: str) -> pathlib.Path:
    """Return the first of `names` that is in `root`, a file or a folder.

    Raises:
      DataError: if none is; `{root}` is replaced in `how_to_get`.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"data.root = {str(root)!r}: has no {' or '.join(names)}; {how_to_get.format(root=root)}")


def list_files(folder: pathlib.Path, suffixes: Collection[str]) -> list[str]:
    """Return the sorted relative paths of all files with one of `suffixes`.

    Links to folders and links out of the folder are left out, and one line of the log counts them.

    Raises:
      DataError: if a folder in it cannot be read.
    """
    safe, found, skipped = SafeFolder(folder), [], []
    for where, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        skipped += [os.path.join(where, name) for name in folders if os.path.islink(os.path.join(where, name))]
        prefix = pathlib.Path(where).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        names = [name for name in files if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes]
        # Folders that are links are not entered, so a file can lead out only if it is a link itself.
        outside = {n for n in names if os.path.islink(os.path.join(where, n)) and safe.reason_against(prefix + n)}
        found += [prefix + name for name in names if name not in outside]
        skipped += [os.path.join(where, name) for name in outside]
    if skipped:
        what = f"{len(skipped)} links to folders or out of it are left out, such as {min(skipped)}"
        _warn_once(f"{folder}: {what}; put the videos themselves there")
    return sorted(found)


@functools.cache
def _warn_once(line: str) -> None:
    _LOG.warning("%s", line)  # every split reads the same folder


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}; what is in it would be lost, make it readable") from error


def files_by_stem(folder: pathlib.Path, suffixes: Collection[str]) -> dict[str, str]:
    """Return {name without folder and suffix: relative path} of all files with one of `suffixes` in `folder`."""
    return {pathlib.PurePosixPath(path).stem: path for path in reversed(list_files(folder, suffixes))}


def report_missing(listing: pathlib.Path, folder: pathlib.Path, num_listed: int, num_missing: int) -> None:
    """Say in one line of the log how many listed videos are missing.

    Raises:
      DataError: if all are.
    """
    if num_missing == num_listed:
        raise DataError(f"{listing}: none of its {num_listed} videos is in {folder}; unpack them there")
    if num_missing:
        share = 100 * num_missing / num_listed
        _LOG.warning("%s: %d of %d videos are missing (%.2f %%) and left out", listing, num_missing, num_listed, share)
