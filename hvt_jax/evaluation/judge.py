"""How good the frozen features of every level are: weighted kNN on every label set of the data."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from hvt_jax.data import pipeline
from hvt_jax.data.sources import Dataset
from hvt_jax.evaluation import features, knn
from hvt_jax.evaluation.results import Scores
from hvt_jax.hierarchy import LEVELS
from hvt_jax.settings import EvaluationSettings, Settings


@dataclasses.dataclass(frozen=True)
class Split:
    """One split to judge with.

    Attributes:
      labels: int [videos] per label set, the one judged first in front.
      num_classes: by label set.
      batches: returns this process's share of all batches, from the start; as many in every process.
      on_batch: called with each share, e.g. to report damaged videos.
    """

    labels: dict[str, np.ndarray]
    num_classes: dict[str, int]
    batches: Callable[[], Iterator[dict[str, np.ndarray]]]
    on_batch: Callable[[dict[str, np.ndarray]], object]


def make_split(dataset: Dataset, settings: Settings, on_batch: Callable[[dict[str, np.ndarray]], object]) -> Split:
    """Return a split of a data set, with one central clip per video."""

    def batches() -> Iterator[dict[str, np.ndarray]]:
        return pipeline.evaluation_batches(
            dataset,
            settings.data,
            batch_size=settings.evaluation.batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    num_classes = {name: len(names) for name, names in dataset.label_names.items()}
    return Split(dataset.labels, num_classes, batches, on_batch)


def judge_levels(
    encode: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    to_devices: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    train: Split,
    test: Split,
    settings: EvaluationSettings,
    *,
    should_stop: Callable[[], bool],
) -> Scores | None:
    """Return {level: {label set: {"top1", "top5", "chance", "standard_error"}}}, in %.

    The gallery is the training split, the queries are the test split. Empty if one of the splits has no video that
    can be read; None if `should_stop()`, asked before every batch, was true.
    """
    found = []
    for split in (train, test):
        extracted = features.extract_features(
            encode, split.batches(), to_devices, on_batch=split.on_batch, should_stop=should_stop
        )
        if extracted is None:
            return None
        found.append(extracted)
    (train_features, train_index), (test_features, test_index) = found
    if not len(train_index) or not len(test_index):
        return {}
    scores = {}
    for level in (name for name in LEVELS if name in train_features):
        scores[level] = knn.knn_label_sets(
            train_features[level],
            {name: labels[train_index] for name, labels in train.labels.items()},
            test_features[level],
            {name: labels[test_index] for name, labels in test.labels.items()},
            neighbours=settings.neighbours,
            temperature=settings.temperature,
            num_classes=test.num_classes,
        )
    return scores
