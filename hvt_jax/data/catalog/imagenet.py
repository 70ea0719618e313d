"""ImageNet-1k (ILSVRC 2012) as videos of one frame, for the patch-frame stage of a curriculum.

Russakovsky et al.: "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Any data set of class folders with
.jpg or .png files in `train` and `val` is read too.
"""

import os
import pathlib
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.containers import PICTURE_SUFFIXES
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.settings import DataSettings

_ROOTS = ("", "ILSVRC/Data/CLS-LOC")  # the archives, or what Kaggle offers
_SOLUTION = "LOC_val_solution.csv"
_HOW_TO_GET = (
    "get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org, unpack them and the archives "
    "in them: {root}/train/<wnid>/*.JPEG and {root}/val/<wnid>/*.JPEG, or {root}/val/*.JPEG with Kaggle's {root}/"
    + _SOLUTION
)


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return the images of `train`, or of `val` for `test`; the only label set is `class`, the WordNet ids.

    A flat `val` folder needs Kaggle's LOC_val_solution.csv beside it.

    Raises:
      DataError: naming what is missing and how to get it, or the file and row that cannot be used.
    """
    root = pathlib.Path(settings.root)
    folders = {part: _find_folder(root, part) for part in ("train", "val")}
    classes = annotations.number_classes(_class_folders(folders["train"]))
    if not classes:
        raise DataError(f"{folders['train']}: has no class folders; {_HOW_TO_GET.format(root=root)}")
    folder = folders["train" if split == "train" else "val"]
    if split == "test" and not _class_folders(folder):
        videos = _read_flat(settings, folder, classes)
    else:
        videos = _read_class_folders(settings, folder, classes)
    if not videos:
        raise DataError(f"{folder}: holds no image; known endings: {' '.join(sorted(PICTURE_SUFFIXES))}")
    return Dataset(root, tuple(videos), {"class": tuple(classes)})


def _find_folder(root: pathlib.Path, part: str) -> pathlib.Path:
    return annotations.first_present(root, [str(pathlib.PurePosixPath(where, part)) for where in _ROOTS], _HOW_TO_GET)


def _class_folders(folder: pathlib.Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _read_class_folders(settings: DataSettings, folder: pathlib.Path, classes: dict[str, int]) -> list[Video]:
    prefix, videos = folder.relative_to(settings.root).as_posix(), []
    for path in annotations.list_files(folder, PICTURE_SUFFIXES, settings.follow_links):
        name, _, rest = path.partition("/")
        if rest:
            number = annotations.class_number(classes, name, str(folder / path), "train")
            videos.append(Video(f"{prefix}/{path}", (number,)))
    return videos


def _read_flat(settings: DataSettings, folder: pathlib.Path, classes: dict[str, int]) -> list[Video]:
    """Read Kaggle's rows, `ILSVRC2012_val_00000001,n01751748 111 108 230 366`."""
    root = pathlib.Path(settings.root)
    solution = root / _SOLUTION
    if not solution.exists():
        raise DataError(f"{folder}: has no class folders, and there is no {solution}; {_HOW_TO_GET.format(root=root)}")
    present = annotations.files_by_stem(folder, PICTURE_SUFFIXES, settings.follow_links)
    listing, missing = annotations.Listing(solution, folder, settings), []
    rows = annotations.read_columns(solution, ("imageid", "predictionstring"))
    for row, cells in rows:
        where = f"{solution}, row {row}"
        number = annotations.class_number(classes, cells["predictionstring"].split(" ")[0], where, "train")
        if cells["imageid"] in present:
            listing.add(row, present[cells["imageid"]], number)
        else:
            missing.append(cells["imageid"])
    annotations.report_missing(solution, folder, rows, missing, present)
    return listing.videos
