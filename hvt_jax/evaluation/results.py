"""What the records of a run say of its levels: names of the kNN metrics, and the scores behind every report.

A report is made of what was written down, not of what a process remembers: so a run that diverged, was
preempted or was resumed reports what was judged.
"""

import math
from collections.abc import Mapping, Sequence

from hvt_jax.data.sources import Dataset
from hvt_jax.settings import SettingsError

Scores = dict[str, dict[str, dict[str, float]]]

FINGERPRINT = "data/fingerprint"  # in the records of judgements: of the videos they were made on

_QUANTITIES = ("top1", "top5", "chance", "standard_error")
_UNTRAINED = "untrained/"  # before the names of a judgement of the untrained network that was made later


def metric_name(level: str, label_set: str, quantity: str = "top1") -> str:
    """Return the full name of a kNN metric, such as `knn/frame/motion/top1`."""
    return f"knn/{level}/{label_set}/{quantity}"


def short_names(level: str, label_set: str) -> dict[str, str]:
    """Return {`knn/<level>/top1`: full name, ...}: short names of the label set that is judged first.

    Which set that is may change from start to start of a run, so whatever compares two steps reads the full names.
    """
    return {f"knn/{level}/{top}": metric_name(level, label_set, top) for top in ("top1", "top5")}


def best_metric(name: str, hierarchy: tuple[str, ...], dataset: Dataset) -> str:
    """Return the full name of the metric `name`; of the top level's first top-1 accuracy if it is empty.

    Raises:
      SettingsError: if no evaluation writes it.
    """
    pairs = [(level, label_set) for level in hierarchy for label_set in dataset.label_names]
    known = [metric_name(*pair, top) for pair in pairs for top in ("top1", "top5")]
    short = {}
    for level in hierarchy:
        short |= short_names(level, dataset.primary_label)
    name = name or metric_name(hierarchy[-1], dataset.primary_label)
    if name not in (*short, *known):
        raise SettingsError(f"checkpoint.best_metric = {name!r}, but must be one of {', '.join((*short, *known))}")
    return short.get(name, name)


def flatten_scores(scores: Scores) -> dict[str, float]:
    """Return the metrics of a judgement by name: the full names of every label set, and the first one's short names."""
    flat = {}
    for level, sets in scores.items():
        for name, values in sets.items():
            flat |= {metric_name(level, name, quantity): values[quantity] for quantity in _QUANTITIES}
        flat |= {short: flat[full] for short, full in short_names(level, next(iter(sets))).items()}
    return flat


def flatten_untrained(scores: Scores) -> dict[str, float]:
    """Return the metrics of a judgement of the untrained network that was made after step 0, by name."""
    return {_UNTRAINED + name: value for name, value in flatten_scores(scores).items()}


def untrained_metrics(records: Sequence[Mapping], fingerprint: float | None) -> dict[str, float]:
    """Return what is known of the untrained network on the videos of `fingerprint`, {} if it was judged on others."""
    alike = [record for record in records if record.get(FINGERPRINT) == fingerprint]
    at_start = next((judged_metrics(record) for record in alike if not record["step"] and judged_metrics(record)), {})
    later = [
        {name.removeprefix(_UNTRAINED): value for name, value in record.items() if name.startswith(_UNTRAINED)}
        for record in alike
    ]
    return next(filter(None, reversed(later)), at_start)


def judged_metrics(record: Mapping) -> dict[str, float]:
    """Return the kNN metrics of a record of metrics.jsonl; empty if no level was judged in it."""
    return {name: value for name, value in record.items() if name.startswith("knn/")}


def judged_steps(records: Sequence[Mapping]) -> list[int]:
    """Return the steps at which the levels were judged, going up."""
    return sorted({record["step"] for record in records if judged_metrics(record)})


def read_scores(records: Sequence[Mapping]) -> Scores:
    """Return what the latest judgement in a run's records says, beside that of the untrained network; {} if none.

    Returns:
      {level: {label set: {"judged_step", "top1", "top5", "chance", "standard_error", "untrained_top1",
      "untrained_standard_error"}}}, accuracies in %; "untrained_..." only where it was judged on the same videos.
    """
    judged = {record["step"]: record for record in records if judged_metrics(record)}
    scores: Scores = {}
    if not judged:
        return scores
    last = max(judged)
    untrained = untrained_metrics(records, judged[last].get(FINGERPRINT))
    for name, value in judged_metrics(judged[last]).items():
        _, level, *label_set, quantity = name.split("/")
        if not label_set:  # a short name
            continue
        values = scores.setdefault(level, {}).setdefault("/".join(label_set), {"judged_step": last})
        values[quantity] = value
        if quantity in ("top1", "standard_error") and name in untrained:
            values[f"untrained_{quantity}"] = untrained[name]
    return scores


def difference_error(scores: Mapping) -> float:
    """Return the standard error, in points, of trained minus untrained accuracy; NaN where one of them is unknown.

    Both were measured on the same videos, which as a rule makes the true one smaller.
    """
    errors = [scores.get(name) for name in ("standard_error", "untrained_standard_error")]
    return math.nan if None in errors else math.hypot(*errors)
