"""What a data set is to the rest of the library, and how its files are found without leaving its folder."""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvt_jax.settings import DataSettings
from hvt_jax.settings.reader import SettingsError

_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class DataError(SettingsError):
    """Data that cannot be used as the config asks; the message names the file, the row and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """One video of a data set.

    Attributes:
      path: relative to the root of the data set, with `/` between folders.
      labels: class number in every label set, in the order of `Dataset.label_names`.
      num_frames: frames in the file, or in the segment where there is one; None if nobody has counted them yet.
      start_seconds: where the segment that counts begins.
      end_seconds: where it ends; 0 = with the file. The same file may be there several times, with other segments.
    """

    path: str
    labels: tuple[int, ...]
    num_frames: int | None = None
    start_seconds: float = 0.0
    end_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The videos of one split, in a fixed order; the number of a video is its place in it.

    Attributes:
      root: folder that every path is relative to.
      videos: the videos.
      label_names: class names of every label set; the first set is the one evaluated first.
      quarantine: videos that could not be opened, {path: (problem, frames found)}. Whoever reads the data set adds to
        it and opens them no more; every decoding process has its own copy.
      reasons: of them in words, {path: reason}.
      caches: windows that are kept in memory, by what they were cut with (`batches.cache_of`).
    """

    root: pathlib.Path
    videos: tuple[Video, ...]
    label_names: dict[str, tuple[str, ...]]
    quarantine: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    caches: dict[DataSettings, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos)

    @functools.cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Class numbers of every label set, int32 [videos]."""
        columns = np.array([video.labels for video in self.videos], np.int32).reshape(len(self), len(self.label_names))
        return {name: columns[:, position] for position, name in enumerate(self.label_names)}

    @property
    def primary_label(self) -> str:
        """Name of the label set evaluated first."""
        return next(iter(self.label_names))

    def with_primary(self, name: str) -> "Dataset":
        """Return the same videos with label set `name` first; an empty name changes nothing.

        Raises:
          DataError: if there is no such label set.
        """
        if not name:
            return self
        if name not in self.label_names:
            known = ", ".join(self.label_names)
            raise DataError(f"data.label = {name!r}, but {self.root} has the label sets {known}")
        order = [name, *(other for other in self.label_names if other != name)]
        columns = [list(self.label_names).index(other) for other in order]
        videos = tuple(
            dataclasses.replace(video, labels=tuple(video.labels[column] for column in columns))
            for video in self.videos
        )
        return Dataset(self.root, videos, {other: self.label_names[other] for other in order})


class SafeFolder:
    """Joins names read from annotation files to a folder and refuses those that lead out of it."""

    def __init__(self, folder: pathlib.Path, follow_links: bool = False):
        """Trust `folder` itself, wherever a link may have put it, and with `follow_links` all links in it."""
        self._folder, self._follow_links = folder, follow_links
        self._absolute, self._real = os.path.abspath(folder), os.path.realpath(folder)
        self._real_parent = functools.cache(os.path.realpath)

    def __reduce__(self):
        return SafeFolder, (self._folder, self._follow_links)  # what it remembers of the disk stays behind

    def locate(self, name: str) -> str:
        """Return what a name in a list means here: paths in the folder without detours, backslashes turned.

        A file may have a backslash in its name: they are turned where there is no such file.
        """
        if "\\" in name and not _WINDOWS_DRIVE.match(name) and not os.path.lexists(self._join(name)):
            name = name.replace("\\", "/")
        if name.startswith("/") and "\0" not in name:
            real = os.path.join(self._real_parent(os.path.dirname(name)), os.path.basename(name))
            for path, folder in ((name, self._absolute), (name, self._real), (real, self._real)):
                if path.startswith(os.path.join(folder, "")):
                    name = path[len(os.path.join(folder, "")) :]
                    break
        inside = os.path.normpath(name)
        return inside if ".." in name.split("/") and not inside.startswith((".", "/")) else name

    def _join(self, name: str) -> str:
        return os.path.join(self._folder, name.replace("\0", ""))

    def reason_against(self, name: str) -> str:
        """Return why `name` must not be read, or an empty string."""
        return self.fault(name)[0]

    def fault(self, name: str) -> tuple[str, str]:
        """Return why `name` must not be read and what to do about it, or two empty strings."""
        if "\0" in name:
            return "holds a NUL byte", "remove the row"
        if not name or name.startswith(("/", "\\")) or _WINDOWS_DRIVE.match(name):
            return "is not a relative path", f"make it relative to data.root, where {self._folder} is"
        if (".." in name and ".." in pathlib.PurePath(name).parts) or os.path.normpath(name) == ".":
            return f"leads out of {self._folder}", "remove the row, this list may be forged"
        if self._follow_links:
            return "", ""
        path = os.path.normpath(os.path.join(self._folder, name))
        real = os.path.join(self._real_parent(os.path.dirname(path)), os.path.basename(path))
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(os.path.join(self._real, "")) or real == self._real:
            reason = f"is reached by a link that leads out of {self._folder}"
            return reason, "put the videos themselves there, or follow links with data.follow_links = True"
        return "", ""


def read_rows(path: pathlib.Path) -> list[tuple[int, str]]:
    """Return (row number from 1, text) of every row of a text file that is not blank, without BOM, CR and outer blanks.

    Raises:
      DataError: if there is no such file, it is no UTF-8 text or holds no row.
    """
    rows = [(number, row.strip()) for number, row in enumerate(read_text(path).split("\n"), start=1)]
    rows = [(number, row) for number, row in rows if row]
    if not rows:
        raise DataError(f"{path}: is empty; get the annotation files again")
    return rows


def read_text(path: pathlib.Path) -> str:
    """Return an annotation file as text, without BOM.

    Raises:
      DataError: if there is no such file or it is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, row {row}: is not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; is data.root the right folder?") from error


def check_found(root: pathlib.Path, videos: Sequence[Video], listing: pathlib.Path) -> None:
    """Raise a `DataError` if none of the first listed videos exists: then the folder is another one."""
    sample = videos[:: max(1, len(videos) // 20)]
    if not any((root / video.path).exists() for video in sample):
        raise DataError(f"{listing}: none of its videos is there, not even {root / videos[0].path}; unpack them there")
