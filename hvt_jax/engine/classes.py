"""The classes that a method which is trained on labels must tell apart; only the data know them."""

import numpy as np

from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.settings import SettingsError


def fit_to_labels(definition: Definition, train_set: Dataset) -> Definition:
    """Return the definition for the classes of the label set evaluated first, where the method is trained on labels.

    Raises:
      SettingsError: if the labels tell nothing apart.
    """
    if "label" not in definition.method.batch_fields:
        return definition
    name = train_set.primary_label
    if len(np.unique(train_set.labels[name])) < 2:
        settings, others = definition.settings, [other for other in train_set.label_names if other != name]
        several = [other for other in others if len(np.unique(train_set.labels[other])) > 1]
        remedy = f"set config.data.label = {several[0]!r}" if several else "sort them into folders, one for each class"
        raise SettingsError(
            f"config.method = {settings.method!r} needs videos of 2 classes or more, but the {len(train_set)} training "
            f"videos of {train_set.root} are of 1 class of {name!r}; {remedy}, or train without labels: "
            "config.method = 'local'"
        )
    return steps.define(definition.settings, len(train_set.label_names[name]))
