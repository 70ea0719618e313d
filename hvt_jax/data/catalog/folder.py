"""A folder of your own videos, in any container: class folders, or all videos in one place.

    ROOT/<class>/*.mp4                   every folder is a class
    ROOT/*.mp4                           one class, "all"
    ROOT/train/..., ROOT/test/...        your own split, in either of these forms

The folders of the splits may also be called `training`, and `testing`, `eval`, `evaluation`, `val`, `valid`,
`validation` or `dev`, in small or capital letters; what comes first in this list goes before the others. Without them
every fifth video is for testing, chosen by a hash of its path: adding or removing videos moves no other one between the
splits.
"""

import hashlib
import logging
import os
import pathlib
import re
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.settings import DataSettings

SUFFIXES = frozenset(
    ".avi .divx .mp4 .m4v .f4v .mov .qt .mkv .webm .mpg .mpeg .mpe .m1v .m2v .vob .ts .mts .m2ts .m2t .wmv .asf .flv "
    ".3gp .3g2 .ogv .ogm .gif .mxf .dv .nut .rm .rmvb .wtv .mj2 .y4m .ivf .h264 .264 .h265 .265 .hevc .obu".split()
)
_TEST_SHARE = 5  # one of this many
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev")  # the first that is there

_LOG = logging.getLogger(__name__)


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `class`.

    Raises:
      DataError: if there is no such folder, no video in it, none in this split, or a folder of one split alone.
    """
    root = pathlib.Path(settings.root)
    if not root.is_dir():
        raise DataError(f"data.root = {settings.root!r}: no such folder; name the folder that holds your videos")
    paths = annotations.list_files(root, SUFFIXES, settings.follow_links)
    if not paths:
        links = sum(os.path.islink(root / name) for name in os.listdir(root))
        why = f"; {links} links are not followed without data.follow_links = True" if links else ""
        raise DataError(
            f"data.root = {settings.root!r}: no video there; known endings: {' '.join(sorted(SUFFIXES))}{why}"
        )
    if folders := _split_folders(root, split, {path.split("/")[0] for path in paths if "/" in path}):
        splits = {part: [path for path in paths if path.startswith(f"{name}/")] for part, name in folders.items()}
        if split == "train" and (rest := len(paths) - sum(map(len, splits.values()))):
            _LOG.warning("%s: %d video(s) are not in %s and left out", root, rest, " or ".join(folders.values()))
        class_of = {path: _class_name(path.split("/", 1)[1]) for part in splits.values() for path in part}
    else:
        if split == "train":
            _warn_of_splits(root, paths)
        splits = split_by_hash(paths)
        class_of = {path: _class_name(path) for path in paths}
    if not splits[split]:
        raise DataError(f"data.root = {settings.root!r}: {len(paths)} video(s) leave none for {split}; add some")
    classes = tuple(sorted(set(class_of.values())))
    videos = tuple(Video(path, (classes.index(class_of[path]),)) for path in splits[split])
    return Dataset(root, videos, {"class": classes})


def _split_folders(root: pathlib.Path, wanted: str, folders: set[str]) -> dict[str, str]:
    """Return the folder of each split, {} if none of `folders` has the name of one; the one `wanted` must be there."""
    found = {}
    for split, names in {"train": _TRAIN_NAMES, "test": _TEST_NAMES}.items():
        for name in names:
            alike = sorted(folder for folder in folders if folder.lower() == name)
            if len(alike) > 1:
                raise DataError(f"data.root = {str(root)!r}: has {' and '.join(alike)}; keep one of them")
            if alike:
                found[split] = alike[0]
                break
    if len(found) == 1 and wanted not in found:
        (there,), missing = found.values(), "train" if "test" in found else "test (or val)"
        raise DataError(
            f"data.root = {str(root)!r}: has {there} but no {missing} with videos; add it, give the folder {there} "
            "itself as data.root, or rename it if it is a class"
        )
    return found


def _warn_of_splits(root: pathlib.Path, paths: list[str]) -> None:
    """Say in a line of the log which folders are no splits here, though their names say so."""
    parts = [path.split("/")[:-1] for path in paths]
    folders = sorted({"/".join(names[:depth]) for names in parts for depth in (1, 2) if len(names) >= depth})
    first_words = {folder: re.split("[^a-z]", folder.rpartition("/")[2].lower())[0] for folder in folders}
    alike = [[name for name in folders if first_words[name] in names] for names in (_TRAIN_NAMES, _TEST_NAMES)]
    if all(alike):
        found = " and ".join(names[0] for names in alike)
        _LOG.warning("%s: %s are taken for classes or parts of them; splits are data.root/train and /test", root, found)


def _class_name(path: str) -> str:
    folder, _, rest = path.partition("/")
    return folder if rest else "all"


def split_by_hash(paths: list[str]) -> dict[str, list[str]]:
    """Return the paths of `train` and `test`; a path stays in its split whatever comes or goes beside it."""
    hashes = {path: int(hashlib.sha256(os.fsencode(path)).hexdigest(), 16) for path in paths}
    test = {path for path in paths if hashes[path] % _TEST_SHARE == 0}
    if not test and len(paths) > 1:  # so few videos that the hash left one split empty
        test = {min(paths, key=hashes.__getitem__)}
    if len(test) == len(paths) > 1:
        test.remove(max(paths, key=hashes.__getitem__))
    return {"train": [path for path in paths if path not in test], "test": [path for path in paths if path in test]}
