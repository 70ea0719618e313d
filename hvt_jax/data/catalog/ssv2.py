"""Something-Something v2 from its official files: 220,847 videos of 174 templates, such as "Pushing [something]".

Goyal et al.: "The 'Something Something' Video Database for Learning and Evaluating Visual Common Sense", ICCV 2017.
"""

import json
import pathlib
from typing import Any, Literal

from hvt_jax.data import annotations
from hvt_jax.data.catalog.folder import SUFFIXES
from hvt_jax.data.dataset import DataError, Dataset, read_text
from hvt_jax.settings import DataSettings

_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos")
_FOLDERS = ("labels/", "annotations/", "")
_HOW_TO_GET = (
    "get the videos and the label package from https://www.qualcomm.com/developer/software/something-something-v-2-"
    "dataset: {root}/20bn-something-something-v2/<id>.webm and {root}/labels/train.json, validation.json, labels.json"
)


def load(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split without its missing videos, which the log counts; the only label set is `action`.

    `data.split` = 1 takes the validation set for `test`, 2 the test set with its answers.

    Raises:
      DataError: if a file is missing or has an entry that cannot be used, or if all videos are missing.
    """
    root = pathlib.Path(settings.root)
    folder = annotations.first_present(root, _VIDEO_FOLDERS, _HOW_TO_GET)
    labels = _find(root, "labels.json")
    classes = _read_classes(labels)
    if split == "train" or settings.split == 1:
        path = _find(root, "train.json" if split == "train" else "validation.json")
        rows = _read_entries(path)
    elif settings.split == 2:
        path = _find(root, "test-answers.csv")
        rows = _read_answers(path)
    else:
        raise DataError(f"data.split = {settings.split}, but must be 1 (validation set) or 2 (test set with answers)")
    present = annotations.files_by_stem(folder, SUFFIXES, settings.follow_links)
    listing, missing, seen = annotations.Listing(path, folder, settings), [], {}
    for row, video, template in rows:
        where = f"{path}, {'row' if path.suffix == '.csv' else 'entry'} {row}"
        if not (video.isascii() and video.isdecimal()):
            raise DataError(f"{where}: {video!r} is no video number; get the file again")
        number = annotations.class_number(classes, template, where, labels.name)
        if seen.setdefault(video, row) != row:
            raise DataError(f"{where}: video {video} was listed in {seen[video]} before; remove one of them")
        if video in present:
            listing.add(row, present[video], number)
        else:
            missing.append(video)
    annotations.report_missing(path, folder, rows, missing, present)
    return Dataset(root, tuple(listing.videos), {"action": tuple(classes)})


def _find(root: pathlib.Path, name: str) -> pathlib.Path:
    files = [f"{folder}{prefix}{name}" for prefix in ("", "something-something-v2-") for folder in _FOLDERS]
    return annotations.first_present(root, files, _HOW_TO_GET)


def _read_json(path: pathlib.Path, kind: type) -> Any:
    try:
        content = json.loads(read_text(path), object_pairs_hook=list)  # a dict would hide repeated names
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); get the file again") from error
    if not isinstance(content, list) or not content or not all(isinstance(entry, kind) for entry in content):
        raise DataError(f"{path}: is not what Something-Something has under this name; get the file again")
    return content


def _read_classes(path: pathlib.Path) -> dict[str, int]:
    """Return template → class number, as the file numbers them from "0"."""
    classes: dict[str, int] = {}
    numbers = set()
    for row, (name, number) in enumerate(_read_json(path, tuple), start=1):
        if not isinstance(number, str | int) or not str(number).isdecimal():
            raise DataError(f"{path}, entry {row}: {name!r} has the number {number!r}; get the file again")
        if name in classes or int(number) in numbers:
            raise DataError(
                f"{path}, entry {row}: {name!r} or its number {number} was there before; get the file again"
            )
        classes[name] = int(number)
        numbers.add(int(number))
    if numbers != set(range(len(classes))):
        raise DataError(f"{path}: its {len(classes)} numbers are not 0 to {len(classes) - 1}; get the file again")
    return dict(sorted(classes.items(), key=lambda item: item[1]))


def _read_entries(path: pathlib.Path) -> list[tuple[int, str, str]]:
    """Return (entry number from 1, video number, template without brackets)."""
    rows = []
    for row, entry in enumerate(_read_json(path, list), start=1):
        fields = dict(entry) if all(isinstance(field, tuple) for field in entry) else {}
        video, template = fields.get("id", ""), fields.get("template", "")
        if not isinstance(video, str | int) or not isinstance(template, str):
            raise DataError(f"{path}, entry {row}: needs an id and a template; get the file again")
        rows.append((row, str(video), _strip_brackets(template)))
    return rows


def _read_answers(path: pathlib.Path) -> list[tuple[int, str, str]]:
    rows = []
    for row, cells in annotations.read_table(path, ";"):
        if len(cells) != 2:
            raise DataError(
                f"{path}, row {row}: has {len(cells)} columns, but needs '<id>;<label>'; get the file again"
            )
        rows.append((row, cells[0], _strip_brackets(cells[1])))
    return rows


def _strip_brackets(template: str) -> str:
    """Return "Pushing something" for "Pushing [something]": the templates of labels.json have no brackets."""
    return template.replace("[", "").replace("]", "")
