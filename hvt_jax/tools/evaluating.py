"""The evaluation of a trained model: every protocol on every level, against the untrained network and chance.

`OUT/results.json` grows by protocol and level; what is there with the same hash of weights, data and settings is not
made again. Beside it: `report.md`, `confusion/`, and the cache of features.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hvt_jax.evaluation import attentive, grid_probes, measures, protocols, retrieval
from hvt_jax.evaluation.protocols import Answers, Task
from hvt_jax.run.trained import Trained
from hvt_jax.tools import evaluation_data, evaluation_report, feature_cache, finetuning
from hvt_jax.tools.evaluation_data import EvaluationData
from hvt_jax.tools.feature_cache import Features
from hvt_jax.tools.finetuning import FinetuneSettings

PROTOCOLS = (*protocols.ON_FEATURES, *protocols.ON_TOKENS, "finetune")
_VERSION = 1  # of what a protocol does; another one makes all results anew

Say = Callable[[str], object]
Bar = Callable[[str, int], Callable[[int], object]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated, on what, and where results go.

    Attributes:
      trained: the model.
      data: both splits.
      levels: that are asked about.
      out: folder of results.
      finetune: how the protocol of that name trains.
      again: repeat what is there already.
      say: called with a line for the user.
      bar: called with a title and a total, returns what is called with how many more are done.
    """

    trained: Trained
    data: EvaluationData
    levels: tuple[str, ...]
    out: pathlib.Path
    finetune: FinetuneSettings
    again: bool
    say: Say
    bar: Bar

    @functools.cached_property
    def untrained(self) -> Trained:
        """The same network before its first step."""
        return self.trained.untrained()

    @functools.cached_property
    def setup(self) -> dict[str, Any]:
        """What all numbers of a table have in common."""
        test, data = self.data.test, self.data
        return {
            "source": self.trained.source,
            "step": self.trained.step,
            "weights": self.trained.digest[:20],
            "data": f"{data.settings.name} {data.settings.root}",
            "videos": {"train": len(data.train.dataset), "test": len(test.dataset), "fingerprint": data.fingerprint},
            "views": f"{test.clips} x {test.crops}",
        }

    @functools.cached_property
    def features(self) -> dict[bool, tuple[Features, Features]]:
        """Features of the training and the test split by whether the network is trained."""
        return self._extract(())

    def tokens(self, levels: tuple[str, ...]) -> dict[bool, tuple[Features, Features]]:
        """Tokens of levels, as `features`."""
        return self._extract(levels)

    def _extract(self, tokens_of: tuple[str, ...]) -> dict[bool, tuple[Features, Features]]:
        def get(model: Trained, split) -> Features:
            where = {"cache": self.out / "features", "say": self.say, "bar": self.bar}
            return evaluation_data.get_features(model, self.data, split, tokens_of=tokens_of, **where)

        return {
            is_trained: (get(model, self.data.train), get(model, self.data.test))
            for is_trained, model in ((True, self.trained), (False, self.untrained))
        }


def evaluate(evaluation: Evaluation, names: tuple[str, ...]) -> dict[str, Any]:
    """Ask the protocols `names` about every level; return the results of this setup, old ones included.

    Raises:
      DataError: if the data, or the folder of results, cannot be used.
    """
    results = evaluation_report.Results(evaluation.out, evaluation.setup, evaluation.data.label_names)
    if results.damaged:
        evaluation.say(f"{evaluation.out / 'results.json'}: damaged; what cannot be read is left out or made anew")
    for name in names:
        hashes = {level: _hash(evaluation, name, level) for level in evaluation.levels}
        pending = tuple(
            level for level in evaluation.levels if evaluation.again or results.hash_of(name, level) != hashes[level]
        )
        if done := [level for level in evaluation.levels if level not in pending]:
            evaluation.say(f"{name}: there already for {', '.join(done)}; --again repeats it")
        found = _found(evaluation, name, pending) if pending else {}
        for level in pending:
            started = time.monotonic()
            trained, untrained, rows = _ask(evaluation, name, level, found)
            entry = {"hash": hashes[level], "label_sets": _measure(evaluation, name, trained, untrained, rows)}
            entry["seconds"] = time.monotonic() - started
            results.keep(name, level, entry, _confusions(evaluation, trained, rows))
    results.write_report()
    return results.setup


def _hash(evaluation: Evaluation, name: str, level: str) -> str:
    """Return a hash of all that decides the numbers of a protocol for a level."""
    settings, data = evaluation.trained.settings, evaluation.data
    recipes = {
        "knn": [settings.evaluation.neighbours, settings.evaluation.temperature],
        "retrieval": list(retrieval.DEPTHS),
        "linear": [protocols.LINEAR_SETTINGS, dataclasses.astuple(protocols.LINEAR_SCHEDULE)],
        "mlp": [protocols.MLP_SETTINGS, dataclasses.astuple(protocols.MLP_SCHEDULE), protocols.HIDDEN],
        "attentive": [attentive.SETTINGS, dataclasses.astuple(attentive.SCHEDULE)],
        "finetune": [dataclasses.asdict(evaluation.finetune)],
    }
    parts = {
        "version": _VERSION,
        "setup": evaluation.setup,
        "protocol": [name, level, recipes[name], grid_probes.HELD_OUT],
        "files": [feature_cache.identity_of(split.dataset, data.settings) for split in (data.train, data.test)],
        "partners": {label_set: table.tolist() for label_set, table in data.partners.items()},
    }
    return feature_cache.key_of(parts)


def _found(evaluation: Evaluation, name: str, levels: tuple[str, ...]) -> dict[bool, tuple[Features, Features]]:
    """Return what a protocol reads, see `Evaluation.features`; {} where it reads videos."""
    if name in protocols.ON_TOKENS:
        return evaluation.tokens(levels)
    return evaluation.features if name in protocols.ON_FEATURES else {}


def _ask(evaluation: Evaluation, name: str, level: str, found) -> tuple[Answers, Answers, np.ndarray]:
    """Return the answers of the trained and of the untrained network, and which test videos they are about."""
    if name == "finetune":
        run = functools.partial(finetuning.finetune, evaluation.data, level, evaluation.finetune, evaluation.bar)
        (trained, rows), (untrained, _) = run(evaluation.trained), run(evaluation.untrained)
        return trained, untrained, rows
    ask = (protocols.ON_FEATURES | protocols.ON_TOKENS)[name]
    advance, answers = evaluation.bar(f"{name} of {level}", 2), []
    for is_trained in (True, False):
        task = _task(evaluation, level, *found[is_trained])
        answers.append(ask(task._replace(is_checked=is_trained)))
        advance(1)
    return *answers, found[True][1].rows


def _task(evaluation: Evaluation, level: str, train: Features, test: Features) -> Task:
    data, settings = evaluation.data, evaluation.trained.settings
    labels = {name: values[train.rows] for name, values in data.train.dataset.labels.items()}
    classes = {name: len(names) for name, names in data.label_names.items()}
    width = max(array.shape[-1] for array in train.arrays.values())
    return Task(train.arrays[level][:, 0], labels, test.arrays[level], classes, width, settings.evaluation)


def _measure(evaluation: Evaluation, name: str, trained: Answers, untrained: Answers, rows: np.ndarray) -> dict:
    """Return {label set: numbers} of a protocol for one level."""
    data, found = evaluation.data, {}
    for label_set, answer in trained.items():
        labels, partners = data.test.dataset.labels[label_set][rows], data.partners.get(label_set)
        other = untrained[label_set]
        numbers = measures.measure(answer.scores, labels, partners)
        numbers["untrained"] = measures.measure(other.scores, labels, partners) | {"details": other.details}
        numbers["gain_interval"] = measures.compare(answer.scores, other.scores, labels)
        numbers["details"] = answer.details
        for check, scores in answer.check.items():
            numbers[check] = measures.measure(scores, labels, partners)
        if name == "retrieval":
            learned = data.train.dataset.labels[label_set][evaluation.features[True][0].rows]
            numbers["recall"] = _recall(answer, learned, labels)
            numbers["untrained"]["recall"] = _recall(other, learned, labels)
            numbers["recall_chance"] = {
                str(depth): retrieval.chance(learned, labels, depth) for depth in retrieval.DEPTHS
            }
        found[label_set] = numbers
    return found


def _recall(answer: protocols.Answer, learned: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    hits = retrieval.hits(answer.neighbours, learned, labels)
    return {str(depth): 100.0 * float(hit.mean()) for depth, hit in hits.items()}


def _confusions(evaluation: Evaluation, answers: Answers, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the confusion matrix of every label set."""
    labels = evaluation.data.test.dataset.labels
    return {name: measures.confusion(answer.scores, labels[name][rows]) for name, answer in answers.items()}
