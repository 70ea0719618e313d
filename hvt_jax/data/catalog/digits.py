"""The `digits` data set, made by `python -m hvt_jax make_digits`: UCF101's layout plus the digit as a second label."""

import dataclasses
import pathlib
from typing import Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog import ucf101
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

_HOW_TO_GET = "make it with: python -m hvt_jax make_digits --root={root}"
_DIGITS = tuple("0123456789")


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split with label sets `motion` (the class folders) and `digit` (from factors.csv).

    Raises:
      DataError: naming what is missing and the command that makes it, or the file and row that cannot be used.
    """
    dataset = ucf101.load_layout(settings, split, "motion", _HOW_TO_GET)
    path = dataset.root / "factors.csv"
    digits = _read_digits(path)
    videos = []
    for video in dataset.videos:
        name = pathlib.PurePosixPath(video.path).name
        if name not in digits:
            raise DataError(f"{path}: has no row for {name}; {_HOW_TO_GET.format(root=dataset.root)}")
        videos.append(dataclasses.replace(video, labels=(*video.labels, digits[name])))
    names = {**dataset.label_names, "digit": _DIGITS}
    return Dataset(dataset.root, tuple(videos), names)


def _read_digits(path: pathlib.Path) -> dict[str, int]:
    if not path.exists():
        raise DataError(f"{path}: does not exist; {_HOW_TO_GET.format(root=path.parent)}")
    digits: dict[str, int] = {}
    for row, factors in annotations.read_columns(path, ("video", "digit")):
        name, digit = factors["video"], factors["digit"]
        if not name or digit not in _DIGITS:
            raise DataError(f"{path}, row {row}: needs a video and a digit 0-9, but has {name!r} and {digit!r}")
        digits[name] = int(digit)
    return digits
