"""UCF101 from its official files: 13,320 videos of 101 actions, three splits.

Soomro, Zamir, Shah: "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", CRCV-TR-12-01, 2012.
Any data set in the same layout is read too, `digits` is one.
"""

import pathlib
import posixpath
from typing import Literal

from hvt_jax.data import annotations as annotation_files
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, Video, check_found, read_rows
from hvt_jax.settings import DataSettings

_VIDEO_FOLDERS = ("videos", "UCF-101")
_ANNOTATION_FOLDERS = ("annotations", "ucfTrainTestlist")
_OTHER = {"train": "test", "test": "train"}
_HOW_TO_GET = (
    "get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from https://www.crcv.ucf.edu/data/UCF101.php, "
    "unpack them there with `unrar x` and `unzip`: {root}/UCF-101/<Class>/*.avi (or {root}/videos/...) and "
    "{root}/ucfTrainTestlist/*.txt (or {root}/annotations/...)"
)


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `action`.

    Raises:
      DataError: naming the missing folder and how to get UCF101, or the file and row that cannot be used.
    """
    return load_layout(settings, split, "action", _HOW_TO_GET)


def load_layout(settings: DataSettings, split: Literal["train", "test"], label: str, how_to_get: str) -> Dataset:
    """Return one split of any data set in UCF101's layout, its classes as label set `label`.

    Args:
      settings: root folder and number of the split.
      split: which list to read; the class of a video is its folder, and the train list repeats it as a number from 1.
      label: name of the label set.
      how_to_get: what to do where the folder is missing; `{root}` is replaced.
    """
    root = pathlib.Path(settings.root)
    videos = _first_folder(root, _VIDEO_FOLDERS, how_to_get)
    annotations = _first_folder(root, _ANNOTATION_FOLDERS, how_to_get)
    classes = _read_classes(annotations / "classInd.txt")
    listing = annotations / f"{split}list{settings.split:02d}.txt"
    if not listing.exists():
        known = ", ".join(path.name for path in sorted(annotations.glob(f"{split}list*.txt"))) or "no list at all"
        raise DataError(f"data.split = {settings.split}, but {listing} does not exist; there is {known}")
    safe = SafeFolder(videos, settings.follow_links)
    found = _read_list(listing, videos, classes, safe)
    if settings.storage == "raw":
        check_found(root, found, listing)
    _refuse_both(found, safe, videos.name, listing, annotations / listing.name.replace(split, _OTHER[split], 1))
    return Dataset(root, tuple(found), {label: tuple(classes)})


def _first_folder(root: pathlib.Path, names: tuple[str, ...], how_to_get: str) -> pathlib.Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root = {str(root)!r}: no folder {' or '.join(names)} there; {how_to_get.format(root=root)}")


def _read_classes(path: pathlib.Path) -> dict[str, int]:
    """Return class name → class number from 0, in the order of their numbers in the file, which start at 1."""
    classes: dict[str, int] = {}
    for row, text in read_rows(path):
        number, _, name = text.partition(" ")
        name = name.strip()
        if number != str(len(classes) + 1) or not name:
            raise DataError(f"{path}, row {row}: {text!r} is not '{len(classes) + 1} <class name>'")
        if name in classes:
            raise DataError(f"{path}, row {row}: class {name!r} was named before; remove one of the rows")
        classes[name] = len(classes)
    return classes


def _read_list(listing: pathlib.Path, folder: pathlib.Path, classes: dict[str, int], safe: SafeFolder) -> list[Video]:
    rows, videos = {}, []
    for row, text in read_rows(listing):
        where = f"{listing}, row {row}"
        path, number = _split_row(text)
        path = annotation_files.safe_name(safe, path, where)
        if path in rows:
            raise DataError(f"{where}: {path!r} was listed in row {rows[path]} before; remove one of the rows")
        rows[path] = row
        name = path.split("/")[0]
        if name not in classes:
            raise DataError(f"{where}: class {name!r} of {path!r} is not in classInd.txt; add it or remove the row")
        if number and number != str(classes[name] + 1):
            raise DataError(f"{where}: {path!r} has class {number}, but its folder is class {classes[name] + 1}")
        videos.append(Video(f"{folder.name}/{path}", (classes[name],)))
    return videos


def _refuse_both(
    videos: list[Video], safe: SafeFolder, folder: str, listing: pathlib.Path, other: pathlib.Path
) -> None:
    """Raise a DataError if the list of the other split, where there is one, names one of the videos, too."""
    if not other.exists():
        return
    ours = {video.path for video in videos}
    for row, text in read_rows(other):
        path = posixpath.normpath(safe.locate(_split_row(text)[0]))
        if f"{folder}/{path}" in ours:
            raise DataError(f"{other}, row {row}: {path!r} is in {listing.name} too; a test video must not train")


def _split_row(text: str) -> tuple[str, str]:
    """Return the path and the class number, empty where there is none."""
    path, _, number = text.rpartition(" ")
    return (path.strip(), number) if path and number.isdigit() else (text, "")
