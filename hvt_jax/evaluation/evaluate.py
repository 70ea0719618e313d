"""How good the frozen features of every level are: neighbours and probes on every label set of the data."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from hvt_jax.data import pipeline
from hvt_jax.data.dataset import Dataset
from hvt_jax.engine.steps import HEAD
from hvt_jax.evaluation import accuracy, features, knn, pairs, probes, results
from hvt_jax.evaluation.head import head_metrics
from hvt_jax.evaluation.results import Scores
from hvt_jax.hierarchy import LEVELS
from hvt_jax.settings import EvaluationSettings, Settings


@dataclasses.dataclass(frozen=True)
class Split:
    """One split to evaluate with.

    Attributes:
      labels: int [videos] per label set, the one evaluated first in front.
      num_classes: by label set.
      partners: of the classes that are in pairs, by label set, see `pairs.find_partners`.
      batches: returns this process's share of all batches, from the start; as many in every process.
      on_batch: called with each share, e.g. to report damaged videos.
    """

    labels: dict[str, np.ndarray]
    num_classes: dict[str, int]
    partners: dict[str, np.ndarray]
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
    partners = pairs.find_partners(settings.evaluation.reversed_pairs, dataset.label_names)
    return Split(dataset.labels, num_classes, partners, batches, on_batch)


class Evaluation(NamedTuple):
    """What was found out about the levels.

    Attributes:
      scores: {protocol: {level: {label set: {"top1", "chance", "standard_error", ...}}}}, in %; see `measure`.
      feature_seconds: spent on features.
      probe_seconds: spent on neighbours and probes.
      head: how often the model's own head is right, see `head.head_metrics`; None if it has none.
    """

    scores: Scores
    feature_seconds: float
    probe_seconds: float
    head: dict[str, float] | None = None


def check_names(settings: Settings, hierarchy: tuple[str, ...], dataset: Dataset) -> str:
    """Return the full name of the metric that checkpoints are kept by, before anything is trained.

    Raises:
      SettingsError: for a metric, a pair of classes or a supervised ceiling that is not there.
    """
    pairs.find_partners(settings.evaluation.reversed_pairs, dataset.label_names)
    results.read_ceiling(settings.evaluation.supervised_ceiling)
    has_mlp = settings.evaluation.probe_steps > 0
    return results.best_metric(settings.checkpoint.best_metric, hierarchy, dataset, has_mlp=has_mlp)


def evaluate_levels(
    encode: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    to_devices: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    train: Split,
    test: Split,
    settings: EvaluationSettings,
    *,
    should_stop: Callable[[], bool],
) -> Evaluation | None:
    """Return what the protocols "knn", "linear" and, unless `probe_steps` is 0, "mlp" say of every level.

    Features are extracted once for all of them. They learn from the training split and are asked about the test split.
    Scores are empty if one of the splits has no video that can be read; None if `should_stop()`, asked before every
    batch, was true. A head of the model's own is evaluated, too, by the label set evaluated first.
    """
    found, started = [], time.monotonic()
    for split in (train, test):
        extracted = features.extract_features(
            encode, split.batches(), to_devices, on_batch=split.on_batch, should_stop=should_stop
        )
        if extracted is None:
            return None
        found.append(extracted)
    (train_features, train_index), (test_features, test_index) = found
    if not len(train_index) or not len(test_index):
        return Evaluation({}, time.monotonic() - started, 0.0)
    extracted_at = time.monotonic()
    learned = {name: labels[train_index] for name, labels in train.labels.items()}
    asked = {name: labels[test_index] for name, labels in test.labels.items()}
    _, named = (of_split.pop(HEAD, None) for of_split in (train_features, test_features))  # classes, not features
    first = next(iter(test.labels))
    head = None if named is None else head_metrics(named, asked[first], test.num_classes[first])
    width = max(values.shape[1] for values in train_features.values())
    scores: Scores = {}
    for level in (name for name in LEVELS if name in train_features):
        task = Task(train_features[level], learned, test_features[level], test.num_classes, width)
        for protocol, by_set in protocol_scores(task, settings).items():
            measured = {name: measure(protocol, by_set[name], asked[name], test.partners.get(name)) for name in by_set}
            scores.setdefault(protocol, {})[level] = measured
    return Evaluation(scores, extracted_at - started, time.monotonic() - extracted_at, head)


class Task(NamedTuple):
    """What is asked of the protocols about one level.

    Attributes:
      train_features: float32 [N, D].
      train_labels: int [N] by label set.
      test_features: float32 [M, D].
      num_classes: by label set.
      width: largest D of all levels.
    """

    train_features: np.ndarray
    train_labels: dict[str, np.ndarray]
    test_features: np.ndarray
    num_classes: dict[str, int]
    width: int


def protocol_scores(task: Task, settings: EvaluationSettings) -> dict[str, dict[str, np.ndarray]]:
    """Return the scores of all classes for every test video, float32 [M, classes], by protocol and label set."""
    found = knn.find_neighbours(task.train_features, task.test_features, settings.neighbours)
    vote = functools.partial(knn.knn_votes, found, temperature=settings.temperature)
    given = {"knn": {name: vote(task.train_labels[name], num_classes=n) for name, n in task.num_classes.items()}}
    examples = probes.prepare(*task[:4], width=task.width)
    given["linear"] = probes.linear_scores(examples)
    if settings.probe_steps:
        given["mlp"] = probes.mlp_scores(examples, settings.probe_steps)
    return given


def measure(protocol: str, scores: np.ndarray, labels: np.ndarray, partners: np.ndarray | None) -> dict[str, float]:
    """Return "top1", "chance" (uniform over classes), the "standard_error" of top1, of neighbours "top5", in %.

    Where classes are in pairs, "within_pairs", too.

    Args:
      protocol: whose scores they are.
      scores: float32 [M, classes].
      labels: int [M].
      partners: of `accuracy.within_pairs`, None without pairs.
    """
    top1 = accuracy.accuracy(scores, labels)
    found = {"top1": top1, "chance": 100.0 / scores.shape[1]}
    found["standard_error"] = accuracy.standard_error(top1, len(labels))
    if protocol == "knn":
        found["top5"] = accuracy.accuracy(scores, labels, 5)
    within = None if partners is None else accuracy.within_pairs(scores, labels, partners)
    return found if within is None else found | {"within_pairs": within}
