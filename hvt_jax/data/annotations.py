"""Rows of annotation files and the videos they name, checked before anything is opened; shared by `catalog`."""

import collections
import csv
import functools
import io
import logging
import os
import pathlib
import posixpath
from collections.abc import Collection, Iterator, Mapping

from hvt_jax.data.dataset import DataError, SafeFolder, Video, read_text
from hvt_jax.settings import DataSettings

_LOG = logging.getLogger(__name__)
_MOST_ENDINGS = 10  # named in a line of the log
_OUR_FILES = ("manifest.jsonl", "manifest.jsonl.part")  # of the command scan


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

    def __init__(self, path: pathlib.Path, folder: pathlib.Path, settings: DataSettings):
        """Collect rows of the file `path`, whose names are relative to `folder`, itself in the root."""
        self.videos: list[Video] = []
        self._path, self._safe = path, SafeFolder(folder, settings.follow_links)
        root = pathlib.Path(settings.root)
        self._prefix = folder.relative_to(root).as_posix() + "/" if folder != root else ""
        self._rows: dict[tuple[str, float, float], tuple[int, int]] = {}

    def add(self, row: int, name: str, label: int, start_seconds: float = 0.0, end_seconds: float = 0.0) -> None:
        """Add the video `name`, listed in `row`.

        Raises:
          DataError: naming file and row, if the name leads out of the folder or was listed before.
        """
        where = f"{self._path}, row {row}"
        name = safe_name(self._safe, name, where)
        key = (name, start_seconds, end_seconds)
        before, other = self._rows.setdefault(key, (row, label))
        if before != row:
            how = "" if other == label else " with another label"
            raise DataError(f"{where}: {name!r} was listed in row {before} before{how}; remove one of the rows")
        self.videos.append(Video(self._prefix + name, (label,), None, start_seconds, end_seconds))


def safe_name(safe: SafeFolder, name: str, where: str) -> str:
    """Return a name of a list, relative to its folder, in the one spelling that all its spellings have.

    Raises:
      DataError: naming `where` it was read, if it leads out of the folder.
    """
    located = safe.locate(name)
    reason, remedy = safe.fault(located)
    if reason:
        raise DataError(f"{where}: {name!r} {reason}; {remedy}")
    return posixpath.normpath(located)


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


def list_files(folder: pathlib.Path, suffixes: Collection[str], follow_links: bool) -> list[str]:
    """Return the sorted relative paths of all files with one of `suffixes`; one line of the log counts the others.

    Without `follow_links`, links to folders and links out of the folder are left out, and another line counts them.
    Files and folders whose name begins with a dot are not looked at.

    Raises:
      DataError: if a folder in it cannot be read.
    """
    safe, found, skipped, others = SafeFolder(folder, follow_links), [], [], collections.Counter()
    for where, folders, files in _walk(folder, follow_links):
        if not follow_links:
            skipped += [os.path.join(where, name) for name in folders if os.path.islink(os.path.join(where, name))]
        prefix = pathlib.Path(where).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in suffixes:
                others[suffix or "without ending"] += name not in _OUR_FILES
            elif os.path.islink(os.path.join(where, name)) and safe.reason_against(prefix + name):
                skipped.append(os.path.join(where, name))
            else:
                found.append(prefix + name)
    if skipped:
        what = f"{len(skipped)} links to folders or out of it are left out, such as {min(skipped)}"
        say_once(logging.WARNING, f"{folder}: {what}; follow them with data.follow_links = True")
    if others.total():
        endings = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(_MOST_ENDINGS) if count)
        more = ", ..." if len(others) > _MOST_ENDINGS else ""
        say_once(logging.INFO, f"{folder}: {others.total()} files with other endings are left out: {endings}{more}")
    return sorted(found)


def _walk(folder: pathlib.Path, follow_links: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder, its folders and its files, without those that begin with a dot; no folder comes twice."""
    seen = set()
    for where, folders, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=follow_links):
        real = os.path.realpath(where) if follow_links else where
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield where, folders, [name for name in files if not name.startswith(".")]


@functools.cache
def say_once(level: int, line: str) -> None:
    """Write a line to the log, unless this process wrote it before."""
    _LOG.log(level, "%s", line)  # every split reads the same folder


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}; what is in it would be lost, make it readable") from error


def files_by_stem(folder: pathlib.Path, suffixes: Collection[str], follow_links: bool) -> dict[str, str]:
    """Return {name without folder and suffix: relative path} of all files with one of `suffixes` in `folder`."""
    files = list_files(folder, suffixes, follow_links)
    return {pathlib.PurePosixPath(path).stem: path for path in reversed(files)}


def report_missing(
    listing: pathlib.Path, folder: pathlib.Path, wanted: Collection[str], missing: list[str], present: Collection[str]
) -> None:
    """Say in one line of the log how many listed videos are missing.

    Args:
      listing: the list.
      folder: where they were looked for.
      wanted: names of all that are listed.
      missing: names of those that are not there.
      present: names of what is there.

    Raises:
      DataError: if all are missing.
    """
    if len(missing) == len(wanted):
        there = f"there are {len(present)} others, such as {min(present)}" if present else "there is none"
        raise DataError(
            f"{listing}: none of its {len(wanted)} videos is in {folder}, not even {missing[0]}; {there}; unpack them "
            "there, or name data.root anew"
        )
    if missing:
        share, count = 100 * len(missing) / len(wanted), len(missing)
        line = "%s: %d of %d videos are missing (%.2f %%) and left out, such as %s"
        _LOG.warning(line, listing, count, len(wanted), share, missing[0])
