"""The data sets known by name, one file each; to add one, write its `load` and name it here."""

from collections.abc import Callable
from typing import Literal

from hvt_jax.data import listing, manifest
from hvt_jax.data.catalog import csv_lists, digits, folder, hmdb51, imagenet, kinetics400, ssv2, ucf101
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.settings import DataSettings

Loader = Callable[[DataSettings, Literal["train", "test"]], Dataset]

LOADERS: dict[str, Loader] = {
    "csv": csv_lists.load,
    "digits": digits.load,
    "folder": folder.load,
    "hmdb51": hmdb51.load,
    "imagenet": imagenet.load,
    "kinetics400": kinetics400.load,
    "ssv2": ssv2.load,
    "ucf101": ucf101.load,
}
_ONE_SPLIT = ("csv", "folder", "imagenet")  # they have no official splits to choose from


def load_dataset(settings: DataSettings, split: Literal["train", "test"]) -> Dataset:
    """Return one split of the data set `settings.name`, with the label set `settings.label` first.

    Videos that its manifest names as bad are left out, see `manifest.apply_manifest`. What stands in a storage that
    `prepare` made is read from the listing there; of the files it was made from none is needed.

    Raises:
      DataError: if the data set is unknown, missing, has no such split, or its files cannot be used as they are.
    """
    if settings.name not in LOADERS:
        raise DataError(f"data.name = {settings.name!r}, but must be one of {', '.join(LOADERS)}")
    if (prepared := listing.find_listing(settings)) is not None:
        return listing.read_listing(prepared, settings, split).with_primary(settings.label)
    if settings.split != 1 and settings.name in _ONE_SPLIT:
        raise DataError(f"data.split = {settings.split}, but {settings.name} has one split only; leave it at 1")
    dataset = LOADERS[settings.name](settings, split).with_primary(settings.label)
    return manifest.apply_manifest(settings, split, dataset)
