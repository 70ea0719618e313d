"""HMDB51 from its official files: 51 actions, three splits of 70 training and 30 test videos a class.

Kuehne, Jhuang, Garrote, Poggio, Serre: "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011.
"""

import pathlib
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.dataset import DataError, Dataset, check_found, read_rows
from hvt_jax.settings import DataSettings

_VIDEO_FOLDERS = ("videos", "hmdb51_org")
_ANNOTATION_FOLDERS = ("testTrainMulti_7030_splits", "annotations")
_HOW_TO_GET = (
    "get hmdb51_org.rar and test_train_splits.rar from "
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database, unpack them and the archives in "
    "them with `unrar x`: {root}/hmdb51_org/<class>/*.avi (or {root}/videos/...) and "
    "{root}/testTrainMulti_7030_splits/*.txt"
)
_MEMBERS = {"0": None, "1": "train", "2": "test"}  # 0: in no part of this split


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `action`.

    Raises:
      DataError: naming what is missing and how to get it, or the file and row that cannot be used.
    """
    root = pathlib.Path(settings.root)
    folder = annotations.first_present(root, _VIDEO_FOLDERS, _HOW_TO_GET)
    lists = annotations.first_present(root, _ANNOTATION_FOLDERS, _HOW_TO_GET)
    ending = f"_test_split{settings.split}.txt"
    listings = {path.name.removesuffix(ending): path for path in lists.glob(f"*{ending}")}
    if not listings:
        raise DataError(f"data.split = {settings.split}: {lists} has no <class>{ending}; there are splits 1, 2 and 3")
    classes = annotations.number_classes(listings)
    videos = []
    for name, number in classes.items():
        listing = annotations.Listing(listings[name], folder, settings)
        for row, text in read_rows(listings[name]):
            video, _, member = text.rpartition(" ")
            if member not in _MEMBERS or not video:
                raise DataError(
                    f"{listings[name]}, row {row}: {text!r} is not '<file> <0, 1 or 2>'; get the file again"
                )
            if _MEMBERS[member] == split:
                listing.add(row, f"{name}/{video.strip()}", number)
        videos += listing.videos
    if not videos:
        raise DataError(f"{lists}: no video of split {settings.split} is for {split}; get the annotation files again")
    if settings.storage == "raw":
        check_found(root, videos, lists)
    return Dataset(root, tuple(videos), {"action": tuple(classes)})
