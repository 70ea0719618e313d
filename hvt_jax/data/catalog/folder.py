"""A folder of your own videos, in any container: class folders, or all videos in one place.

    ROOT/<class>/*.mp4                   every folder is a class
    ROOT/*.mp4                           one class, "all"
    ROOT/train/..., ROOT/test/...        your own split, in either of these forms

Without `train` and `test` folders every fifth video is for testing, chosen by a hash of its path: adding or removing
videos moves no other one between the splits.
"""

import hashlib
import os
import pathlib
from typing import Literal

from hvt_jax.data.sources import DataError, Dataset, SafeFolder, Video
from hvt_jax.settings import DataSettings

SUFFIXES = frozenset(
    ".avi .mp4 .m4v .mov .mkv .webm .mpg .mpeg .ts .mts .m2ts .wmv .asf .flv .3gp .3g2 .ogv .gif .mxf .vob .dv".split()
)
_TEST_SHARE = 5  # one of this many


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split; the only label set is `class`.

    Raises:
      DataError: if there is no such folder, no video in it, or none in this split.
    """
    root = pathlib.Path(settings.root)
    if not root.is_dir():
        raise DataError(f"data.root = {settings.root!r}: no such folder; name the folder that holds your videos")
    paths = _find_videos(root)
    if not paths:
        raise DataError(f"data.root = {settings.root!r}: no video there; known endings: {' '.join(sorted(SUFFIXES))}")
    if {"train", "test"} <= {path.split("/")[0] for path in paths if "/" in path}:
        splits = {part: [path for path in paths if path.startswith(part + "/")] for part in ("train", "test")}
        class_of = {path: _class_name(path.split("/", 1)[1]) for part in splits.values() for path in part}
    else:
        splits = split_by_hash(paths)
        class_of = {path: _class_name(path) for path in paths}
    if not splits[split]:
        raise DataError(f"data.root = {settings.root!r}: {len(paths)} video(s) leave none for {split}; add some")
    classes = tuple(sorted(set(class_of.values())))
    videos = tuple(Video(path, (classes.index(class_of[path]),)) for path in splits[split])
    return Dataset(root, videos, {"class": classes})


def _find_videos(root: pathlib.Path) -> list[str]:
    """Return the relative paths of all videos, sorted; links that lead out of the folder are left out."""
    safe, paths = SafeFolder(root), []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = pathlib.Path(folder, name).relative_to(root).as_posix()
            if pathlib.Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                if not safe.reason_against(path):
                    paths.append(path)
    return sorted(paths)


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
