"""The golden files that tests run on: the project's, and every one of the folder that HVT_GOLDENS names.

What a file is follows from what it holds, never from its name.
"""

import functools
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"
VARIABLE = "HVT_GOLDENS"
# Keys of an .npz, whole or by their beginning or end, that only files of this kind have.
KINDS = {
    "step": ("meta_json", "target_agg/*"),  # a training step of the local hierarchy
    "losses": ("meta_json", "*/dpred"),
    "knn": ("train_features",),
    "vit": ("vit_image_size",),
    "s3d_stem": ("video_uint8_bcthw",),
    "s3d": ("shapes_json",),
    "s3d_torchvision": ("torchvision_shapes_json",),
    "siamese": ("video1_uint8",),
    "supervised": ("*/config_json",),
    "curriculum": ("meta_json", "new_after/*"),
}
# Sections of a .json file that a test reads, one of which makes it of the kind `misc`.
MISC_SECTIONS = {
    "sweep_ST",
    "sweep_STC",
    "sweep_underscore_and_empty_name",
    "validation_epochs",
    "loss_weights_24_epochs",
    "sliding_windows",
    "set_width_height",
    "relative_position",
    "truncated_normal_histograms_4000",
    "merged_configs",
    "lr_per_epoch",
}


def of_kind(kind: str) -> list[pathlib.Path]:
    """Return the files of a kind, one of `KINDS` or "misc"; those of one name in both folders are two files.

    Raises:
      ValueError: in one line, if HVT_GOLDENS names no folder, or one without any golden file.
    """
    return [path for folder in _folders() for path in _files(folder) if kind_of(path) == kind]


def unknown() -> list[pathlib.Path]:
    """Return the .npz files whose kind cannot be told, so that no test runs on them."""
    paths = [path for folder in _folders() for path in _files(folder)]
    return [path for path in paths if path.suffix == ".npz" and kind_of(path) is None]


def label(path: pathlib.Path) -> str:
    """Return the id of `path` in the names of tests: its folder and its name."""
    return f"{'goldens' if path.parent == GOLDENS else VARIABLE}/{path.stem}"


def each(kind: str) -> pytest.MarkDecorator:
    """Return the decorator that gives a test every file of `kind` as `path`."""
    return pytest.mark.parametrize("path", of_kind(kind), ids=label)


def each_misc(section: str) -> pytest.MarkDecorator:
    """Return the decorator that gives a test a section of every misc file that has it, as `golden`."""
    found = [(path, _read_json(path).get(section)) for path in of_kind("misc")]
    found = [pytest.param(content, id=label(path)) for path, content in found if content]
    return pytest.mark.parametrize("golden", found)


def each_misc_item(section: str) -> pytest.MarkDecorator:
    """Return the decorator that gives a test every item of a section as `key`, its name or number, and `golden`."""
    items = []
    for path in of_kind("misc"):
        content = _read_json(path).get(section, {})
        content = dict(enumerate(content)) if isinstance(content, list) else content
        items += [pytest.param(key, value, id=f"{label(path)}-{key}") for key, value in content.items()]
    return pytest.mark.parametrize(("key", "golden"), items)


@functools.cache
def kind_of(path: pathlib.Path) -> str | None:
    """Return what `path` is, or None if it is not known or cannot be read."""
    try:
        if path.suffix == ".json":
            return "misc" if MISC_SECTIONS & set(_read_json(path)) else None
        with np.load(path, allow_pickle=False) as arrays:
            keys = arrays.files
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    for kind, patterns in KINDS.items():
        if all(any(_matches(key, pattern) for key in keys) for pattern in patterns):
            return kind
    return None


def _matches(key: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return key.startswith(pattern[:-1])
    return key.endswith(pattern[1:]) if pattern.startswith("*") else key == pattern


@functools.cache
def _read_json(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _folders() -> list[pathlib.Path]:
    named = os.environ.get(VARIABLE)
    if not named:
        return [GOLDENS]
    folder = pathlib.Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"{VARIABLE}={named} is no folder; name one that holds golden files, or unset it")
    if folder.samefile(GOLDENS):
        return [GOLDENS]
    if not any(kind_of(path) for path in _files(folder)):
        raise ValueError(f"{VARIABLE}={named} holds no golden file, .npz or misc.json, that a test could run on")
    return [GOLDENS, folder]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted([*folder.glob("*.npz"), *folder.glob("*.json")])
