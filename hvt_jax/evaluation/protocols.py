"""The protocols that read the frozen features of a level: each gives a score to every class of every test video."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hvt_jax.evaluation import attentive, grid_probes, knn, measures, probe_networks, probes, retrieval
from hvt_jax.evaluation.grid_probes import Schedule, Setting
from hvt_jax.evaluation.probe_networks import Probe
from hvt_jax.settings import EvaluationSettings

LINEAR_SETTINGS = grid_probes.grid((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.01, 0.3, 3.0, 30.0))
LINEAR_SCHEDULE = Schedule(batch=256, epochs=50, least=400, most=20_000)
MLP_SETTINGS = grid_probes.grid((1e-3, 3e-3, 1e-2), (0.01, 0.1, 1.0))
MLP_SCHEDULE = Schedule(batch=256, epochs=40, least=300, most=20_000)
HIDDEN = 256  # units of the MLP
_CHECKED = (1e-3, 1e-2, 1e-1)  # C of scikit-learn's logistic regression
_MOST_CHECKED = 10**9  # videos x width x classes above which scikit-learn takes too long
_MOST_ITERATIONS = 300


class Task(NamedTuple):
    """What is asked about one level.

    Attributes:
      train: [N, ...] features [D] or tokens [tokens, D] of the training videos.
      train_labels: int [N] by label set.
      test: [M, V, ...], of V views of every test video.
      num_classes: by label set.
      width: the largest D of all levels, so that they share what is compiled.
      settings: of the run.
      is_checked: ask scikit-learn, too.
    """

    train: np.ndarray
    train_labels: dict[str, np.ndarray]
    test: np.ndarray
    num_classes: dict[str, int]
    width: int
    settings: EvaluationSettings
    is_checked: bool = True

    @property
    def most_classes(self) -> int:
        """Classes of the largest label set."""
        return max(self.num_classes.values())


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a protocol says of one label set.

    Attributes:
      scores: [M, classes]; a higher one is a better one, of all views together.
      details: JSON values that are reported beside it, such as the setting that was chosen.
      neighbours: of retrieval.
      check: the same from another implementation, by its name.
    """

    scores: np.ndarray
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    neighbours: knn.Neighbours | None = None
    check: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


Answers = dict[str, Answer]  # by label set


def ask_knn(task: Task) -> Answers:
    """Return the votes of the k nearest training videos, see `knn`; of several views the mean of their shares."""
    num_test, num_views = task.test.shape[:2]
    queries = task.test.reshape(num_test * num_views, -1)
    found = knn.find_neighbours(task.train, queries, task.settings.neighbours)
    answers = {}
    for name, num_classes in task.num_classes.items():
        votes = knn.knn_votes(
            found, task.train_labels[name], temperature=task.settings.temperature, num_classes=num_classes
        )
        shares = votes / votes.sum(axis=1, keepdims=True)
        answers[name] = Answer(shares.reshape(num_test, num_views, -1).mean(axis=1), {"k": task.settings.neighbours})
    return answers


def ask_retrieval(task: Task) -> Answers:
    """Return the similarity of the nearest video of each class, see `retrieval`; views are averaged before."""
    lengths = np.linalg.norm(task.test, axis=2, keepdims=True)
    queries = (task.test / np.maximum(lengths, 1e-12)).mean(axis=1)
    found = knn.find_neighbours(task.train, queries, max(retrieval.DEPTHS))
    return {
        name: Answer(retrieval.class_scores(found, task.train_labels[name], num_classes), neighbours=found)
        for name, num_classes in task.num_classes.items()
    }


def ask_linear(task: Task) -> Answers:
    """Return what a linear classifier says, with scikit-learn's logistic regression beside it."""
    probe = probe_networks.Linear(task.width, task.most_classes)
    answers = _ask_grid(task, probe, LINEAR_SETTINGS, LINEAR_SCHEDULE)
    if not task.is_checked:
        return answers
    train, test = _standardised(task)
    return {name: _cross_check(task, name, answer, train, test) for name, answer in answers.items()}


def ask_mlp(task: Task) -> Answers:
    """Return what a network with one hidden layer says."""
    return _ask_grid(task, probe_networks.Mlp(task.width, HIDDEN, task.most_classes), MLP_SETTINGS, MLP_SCHEDULE)


def ask_attentive(task: Task) -> Answers:
    """Return what the attentive probe says of tokens, see `attentive`."""
    probe = attentive.make_probe(task.train.shape[-1], task.most_classes)
    return _ask_probe(task, probe, (task.train, task.test), attentive.SETTINGS, attentive.SCHEDULE)


ON_FEATURES: dict[str, Callable[[Task], Answers]] = {
    "knn": ask_knn,
    "retrieval": ask_retrieval,
    "linear": ask_linear,
    "mlp": ask_mlp,
}
ON_TOKENS: dict[str, Callable[[Task], Answers]] = {"attentive": ask_attentive}


def _ask_grid(task: Task, probe: Probe, settings: tuple[Setting, ...], schedule: Schedule) -> Answers:
    return _ask_probe(task, probe, _standardised(task), settings, schedule)


def _ask_probe(task: Task, probe: Probe, arrays, settings: tuple[Setting, ...], schedule: Schedule) -> Answers:
    answers = {}
    for name, num_classes in task.num_classes.items():
        chosen = grid_probes.choose_and_fit(
            probe,
            arrays[0],
            task.train_labels[name],
            arrays[1],
            num_classes=num_classes,
            settings=settings,
            schedule=schedule,
        )
        details = {
            "learning_rate": chosen.setting.rate,
            "weight_decay": chosen.setting.decay,
            "held_out_top1": max(chosen.held_out_top1),
        }
        answers[name] = Answer(measures.average_views(chosen.scores), details)
    return answers


def _standardised(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return [N, W] and [M, V, W], by mean and deviation of the training videos, with zeros up to the width W."""
    num_test, num_views, width = task.test.shape
    queries = task.test.reshape(num_test * num_views, width)
    examples = probes.prepare(task.train, task.train_labels, queries, task.num_classes, width=task.width)
    return np.asarray(examples.train), np.asarray(examples.test).reshape(num_test, num_views, -1)


def _cross_check(task: Task, name: str, answer: Answer, train: np.ndarray, test: np.ndarray) -> Answer:
    """Return the answer with that of scikit-learn's logistic regression, its C chosen by the same held-out videos."""
    labels, num_classes = task.train_labels[name], task.num_classes[name]
    size = len(train) * task.train.shape[1] * num_classes
    if size > _MOST_CHECKED:
        note = f"left out: videos x width x classes are {size:.0e}, more than {_MOST_CHECKED:.0e}"
        return dataclasses.replace(answer, details=answer.details | {"sklearn": note})
    learn, held = grid_probes.hold_out(len(train))
    if len(np.unique(labels[learn])) < 2:
        note = "left out: the training videos have one class only"
        return dataclasses.replace(answer, details=answer.details | {"sklearn": note})
    right = {
        c: (_logistic(train[learn], labels[learn], c).predict(train[held]) == labels[held]).mean() for c in _CHECKED
    }
    best = max(right, key=right.get)
    model = _logistic(train, labels, best)
    scores = np.full((*test.shape[:2], num_classes), -1e9)  # of classes that no training video has
    flat = model.predict_log_proba(test.reshape(-1, test.shape[2]))
    scores[:, :, model.classes_] = flat.reshape(*test.shape[:2], -1)
    details = answer.details | {"sklearn": f"LogisticRegression(C={best:g})"}
    return dataclasses.replace(answer, details=details, check={"sklearn": measures.average_views(scores)})


def _logistic(features: np.ndarray, labels: np.ndarray, inverse_penalty: float):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with a weak penalty on few videos there is no end to it
        return LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS).fit(features, labels)
