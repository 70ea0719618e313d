"""Features of many windows in one file, `.npz` or `.parquet`, written as they come: memory does not grow with them.

Until all are there they lie in a folder beside the file, plain arrays and a journal with a line for every video that
is done; a second attempt with the same model and videos goes on behind the last of them.
"""

import contextlib
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hvt_jax import disk
from hvt_jax.settings import SettingsError

ENDINGS = (".npz", ".parquet")
_ROWS_AT_ONCE = 4096


class Done(NamedTuple):
    """A video that is done: its number, its windows, those that could not be read, and why not."""

    video: int
    windows: int
    failed: int
    reason: str


class FeatureFile:
    """Collects rows, then writes them as arrays `path`, `start_seconds`, `end_seconds`, and one for each level.

    Attributes:
      done: the videos that are done, those of an earlier attempt, too.
    """

    def __init__(self, path: str | os.PathLike, widths: dict[str, int], identity: dict[str, Any]):
        """Go on with what an earlier attempt left, if its `identity` is the same, else begin.

        Args:
          path: of the file to write.
          widths: D of each level, in the order of the arrays.
          identity: in JSON's types; what the features depend on.

        Raises:
          SettingsError: for another ending, if pyarrow is missing, or if another process writes this file.
        """
        self.path = check_path(path)
        self._folder = self.path.with_name(self.path.name + ".parts")
        self._columns = {"video": np.dtype(np.int64), "seconds": np.dtype((np.float64, 2))}
        self._columns |= {name: np.dtype((np.float32, width)) for name, width in widths.items()}
        self._levels = tuple(widths)
        self.done: list[Done] = []
        self._rows = 0  # written; those of videos that are done come first
        self._open = contextlib.ExitStack()
        self._open.enter_context(disk.locked(self._folder, SettingsError))
        identity = {"format": 1, "widths": widths} | identity
        if self._read_json("identity.json") == identity:
            self.done = self._read_journal()
        else:
            for old in self._folder.iterdir():
                old.unlink()
            (self._folder / "identity.json").write_text(json.dumps(identity))
        self._rows = sum(video.windows for video in self.done)
        self._files = {name: self._open.enter_context(self._open_column(name)) for name in self._columns}
        (self._folder / "journal.jsonl").write_text("".join(_line(video) for video in self.done))
        self._journal = self._open.enter_context((self._folder / "journal.jsonl").open("a"))

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def append(self, video: np.ndarray, seconds: np.ndarray, features: dict[str, np.ndarray]) -> None:
        """Add windows: numbers of their videos [n], seconds [n, 2], float32 [n, D] of every level."""
        for name, values in {"video": video, "seconds": seconds, **features}.items():
            kind = self._columns[name]
            self._files[name].write(np.ascontiguousarray(values, kind.base).reshape(len(video), *kind.shape).tobytes())
        self._rows += len(video)

    def finish_video(self, video: Done) -> None:
        """Note that all windows of a video have been added; an interruption costs no more than what follows."""
        for file in self._files.values():
            file.flush()
        self.done.append(video)
        self._journal.write(_line(video))
        self._journal.flush()

    def write(self, paths: Callable[[np.ndarray], dict[str, np.ndarray]]) -> int:
        """Write the file, remove the folder beside it and return the number of windows.

        Args:
          paths: returns the columns of text, {name: str [n]}, of videos by their numbers [n]; the same names always.
        """
        for file in self._files.values():
            file.flush()
        write = _write_npz if self.path.suffix == ".npz" else _write_parquet
        with disk.replaced(self.path) as unfinished:
            write(unfinished, self, paths)
        self.discard()
        return self._rows

    def discard(self) -> None:
        """Remove what was collected."""
        shutil.rmtree(self._folder)
        self.__exit__()

    @property
    def columns(self) -> dict[str, np.dtype]:
        """The numbers that the file holds, by name, as the type of a row."""
        seconds = {name: np.dtype(np.float64) for name in ("start_seconds", "end_seconds")}
        return seconds | {level: self._columns[level] for level in self._levels}

    def __len__(self) -> int:
        return self._rows

    def chunks(self, column: str) -> Iterator[np.ndarray]:
        """Yield the rows of a column, a few thousand at a time; `video` are the numbers of the videos."""
        cut = {"start_seconds": ("seconds", 0), "end_seconds": ("seconds", 1)}
        name, place = cut.get(column, (column, slice(None)))
        kind = self._columns[name]
        with (self._folder / name).open("rb") as file:
            while content := file.read(_ROWS_AT_ONCE * kind.itemsize):
                yield np.frombuffer(content, kind.base).reshape(-1, *kind.shape)[..., place]

    def _open_column(self, name: str) -> BinaryIO:
        file = (self._folder / name).open("ab")
        file.truncate(self._rows * self._columns[name].itemsize)
        return file

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads((self._folder / name).read_text())
        except (OSError, ValueError):
            return None

    def _read_journal(self) -> list[Done]:
        """Return the videos whose rows are all there, as far as the journal is whole."""
        try:
            lines = (self._folder / "journal.jsonl").read_text().split("\n")
            sizes = {name: (self._folder / name).stat().st_size for name in self._columns}
        except (OSError, ValueError):
            return []
        rows, done = min(size // self._columns[name].itemsize for name, size in sizes.items()), []
        for line in lines[:-1]:
            video = _parse(line)
            if video is None or video.video != len(done) or video.windows > rows:
                break
            rows -= video.windows
            done.append(video)
        return done


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a file of features, in a folder that is there.

    Raises:
      SettingsError: for another ending, for a folder, or if pyarrow is missing.
    """
    path = pathlib.Path(path)
    if path.suffix not in ENDINGS:
        raise SettingsError(f"{path}: unknown ending; name a file that ends with {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; name a file to write with --out")
    if path.suffix == ".parquet":
        _import_pyarrow(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _parse(line: str) -> Done | None:
    """Return a line of the journal; None if it is damaged."""
    try:
        video = Done(*json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    sound = all(type(number) is int and number >= 0 for number in video[:3]) and isinstance(video.reason, str)
    return video if sound else None


def _line(video: Done) -> str:
    return json.dumps(video) + "\n"


def _write_npz(path: pathlib.Path, rows: FeatureFile, paths: Callable) -> None:
    """Write an .npz file as `np.savez` would, a piece at a time."""
    names: dict[str, int] = {name: 1 for name in paths(np.zeros(0, np.int64))}
    for numbers in rows.chunks("video"):
        names = {name: max(names[name], *map(len, text)) for name, text in paths(numbers).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, width in names.items():
            parts = (paths(numbers)[name] for numbers in rows.chunks("video"))
            _write_array(archive, name, np.dtype(f"<U{width}"), len(rows), parts)
        for name, kind in rows.columns.items():
            _write_array(archive, name, kind, len(rows), rows.chunks(name))


def _write_array(archive: zipfile.ZipFile, name: str, kind: np.dtype, rows: int, parts: Iterator[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(kind.base), "fortran_order": False, "shape": (rows, *kind.shape)}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, kind.base).tobytes())


def _write_parquet(path: pathlib.Path, rows: FeatureFile, paths: Callable) -> None:
    """Write a table with a list of numbers for every level, a group of rows at a time."""
    pyarrow, parquet = _import_pyarrow(path)
    kinds = {name: pyarrow.string() for name in paths(np.zeros(0, np.int64))}
    for name, kind in rows.columns.items():
        value = pyarrow.from_numpy_dtype(kind.base)
        kinds[name] = pyarrow.list_(value, kind.shape[0]) if kind.shape else value
    with parquet.ParquetWriter(path, pyarrow.schema(list(kinds.items()))) as writer:
        for numbers, *parts in zip(rows.chunks("video"), *map(rows.chunks, rows.columns), strict=True):
            arrays = [
                pyarrow.array([str(word).encode(errors="backslashreplace").decode() for word in text], kinds[name])
                for name, text in paths(numbers).items()
            ]
            for part in parts:
                flat = pyarrow.array(np.ascontiguousarray(part).reshape(-1))
                is_list = part.ndim > 1
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, part.shape[1]) if is_list else flat)
            writer.write_table(pyarrow.table(arrays, schema=writer.schema))


def _import_pyarrow(path: pathlib.Path):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SettingsError(f"{path} needs pyarrow: pip install 'hvt-jax[parquet]', or name a .npz file") from error
    return pyarrow, parquet
