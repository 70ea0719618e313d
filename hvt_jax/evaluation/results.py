"""What the records of a run say of its levels: names of the metrics of evaluations, and the scores behind every report.

A report is made of what was written down, not of what a process remembers: so a run that diverged, was
preempted or was resumed reports what was evaluated.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvt_jax.data.dataset import Dataset
from hvt_jax.engine.alarms import CHECKS, series
from hvt_jax.hierarchy import LEVELS
from hvt_jax.settings import SettingsError

LevelScores = dict[str, dict[str, dict[str, float]]]  # {level: {label set: {quantity: number}}}
Scores = dict[str, LevelScores]  # by protocol

PROTOCOLS = ("knn", "linear", "mlp")
FINGERPRINT = "data/fingerprint"  # in the records of evaluations: of the videos they were made on

_UNTRAINED = "untrained/"  # before the names of an evaluation of the untrained network that was made later
_COMPARED = ("top1", "standard_error", "within_pairs")  # of which the untrained network's are shown beside


def metric_name(protocol: str, level: str, label_set: str, quantity: str = "top1") -> str:
    """Return the full name of a metric of an evaluation, such as `knn/frame/motion/top1`."""
    return f"{protocol}/{level}/{label_set}/{quantity}"


def short_names(protocol: str, level: str, label_set: str) -> dict[str, str]:
    """Return {`knn/<level>/top1`: full name, ...}: short names of the label set that is evaluated first.

    Which set that is may change from start to start of a run, so whatever compares two steps reads the full names.
    """
    tops = ("top1", "top5") if protocol == "knn" else ("top1",)
    return {f"{protocol}/{level}/{top}": metric_name(protocol, level, label_set, top) for top in tops}


def best_metric(name: str, hierarchy: tuple[str, ...], dataset: Dataset, *, has_mlp: bool = True) -> str:
    """Return the full name of the metric `name`; of the top level's first linear top-1 accuracy if it is empty.

    Raises:
      SettingsError: if no evaluation writes it.
    """
    short, known = {}, []
    for protocol in PROTOCOLS if has_mlp else PROTOCOLS[:2]:
        for level in hierarchy:
            short |= short_names(protocol, level, dataset.primary_label)
            known += [
                full for label_set in dataset.label_names for full in short_names(protocol, level, label_set).values()
            ]
    name = name or metric_name("linear", hierarchy[-1], dataset.primary_label)
    if name not in (*short, *known):
        raise SettingsError(f"checkpoint.best_metric = {name!r}, but must be one of {', '.join((*short, *known))}")
    return short.get(name, name)


def read_ceiling(path: str) -> Scores:
    """Return the accuracies in the results.json of a supervised run, {protocol: {level: {label set: numbers}}}.

    Args:
      path: of `evaluation.supervised_ceiling`; "" for none.

    Raises:
      SettingsError: if it cannot be read, or holds no accuracy.
    """
    if not path:
        return {}
    field = f"evaluation.supervised_ceiling = {path!r}"
    try:
        found = json.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{field} cannot be read ({type(error).__name__}); give a run's results.json") from error
    ceiling = {protocol: found[protocol] for protocol in PROTOCOLS if isinstance(found, dict) and found.get(protocol)}
    if not ceiling:
        raise SettingsError(
            f"{field} holds no accuracy of {', '.join(PROTOCOLS)}; give the results.json of an evaluated run"
        )
    return ceiling


def _ceiling_of(ceiling: Mapping, protocol: str, level: str, label_set: str) -> float | None:
    """Return the supervised top-1 for one level, or that of the best level if the supervised run lacks this one."""
    levels = {name: sets[label_set]["top1"] for name, sets in ceiling.get(protocol, {}).items() if label_set in sets}
    return levels.get(level, max(levels.values(), default=None))


def flatten_scores(scores: Scores) -> dict[str, float]:
    """Return the metrics of an evaluation by name: full ones of every label set, and the first one's short ones."""
    flat = {}
    for protocol, levels in scores.items():
        for level, sets in levels.items():
            for name, values in sets.items():
                flat |= {metric_name(protocol, level, name, quantity): value for quantity, value in values.items()}
            flat |= {short: flat[full] for short, full in short_names(protocol, level, next(iter(sets))).items()}
    return flat


def flatten_untrained(scores: Scores) -> dict[str, float]:
    """Return the metrics of an evaluation of the untrained network that was made after step 0, by name."""
    return {_UNTRAINED + name: value for name, value in flatten_scores(scores).items()}


def untrained_metrics(records: Sequence[Mapping], fingerprint: float | None) -> dict[str, float]:
    """Return what is known of the untrained network on the videos of `fingerprint`, {} if only others were used."""
    alike = [record for record in records if record.get(FINGERPRINT) == fingerprint]
    at_start = next((scored_metrics(record) for record in alike if not record["step"] and scored_metrics(record)), {})
    later = [
        {name.removeprefix(_UNTRAINED): value for name, value in record.items() if name.startswith(_UNTRAINED)}
        for record in alike
    ]
    return next(filter(None, reversed(later)), at_start)


def scored_metrics(record: Mapping) -> dict[str, float]:
    """Return the metrics of an evaluation in a record of metrics.jsonl; empty if no level was evaluated in it."""
    return {name: value for name, value in record.items() if name.split("/")[0] in PROTOCOLS}


def evaluated_steps(records: Sequence[Mapping]) -> list[int]:
    """Return the steps at which the levels were evaluated, going up."""
    return sorted({record["step"] for record in records if scored_metrics(record)})


def read_scores(records: Sequence[Mapping], ceiling: Mapping | None = None) -> Scores:
    """Return what the latest evaluation in a run's records says, beside that of the untrained network; {} if none.

    Args:
      records: of metrics.jsonl.
      ceiling: from `read_ceiling`.

    Returns:
      {protocol: {level: {label set: {"evaluated_step", "top1", "chance", "standard_error", "untrained_top1",
      "untrained_standard_error"}}}}, accuracies in %; of neighbours "top5", too, of label sets with classes in pairs
      "within_pairs" and "untrained_within_pairs". "untrained_..." only where it was evaluated on the same videos,
      "supervised_top1" only where the ceiling has it.
    """
    evaluated = {record["step"]: record for record in records if scored_metrics(record)}
    scores: Scores = {}
    if not evaluated:
        return scores
    last = max(evaluated)
    untrained = untrained_metrics(records, evaluated[last].get(FINGERPRINT))
    for name, value in scored_metrics(evaluated[last]).items():
        protocol, level, *label_set, quantity = name.split("/")
        if not label_set:  # a short name
            continue
        sets = scores.setdefault(protocol, {}).setdefault(level, {})
        values = sets.setdefault("/".join(label_set), {"evaluated_step": last})
        values[quantity] = value
        if quantity in _COMPARED and name in untrained:
            values[f"untrained_{quantity}"] = untrained[name]
        top1 = _ceiling_of(ceiling or {}, protocol, level, "/".join(label_set))
        if top1 is not None:
            values["supervised_top1"] = top1
    return scores


def read_edges(records: Sequence[Mapping]) -> dict[str, dict[str, float | None]]:
    """Return what every prediction is worth, by edge: the mean of the last `alarms.CHECKS` records.

    Returns:
      {edge: {"loss", "mean_ratio", "copy_ratio"}}: the loss over that of always answering the mean (where the target is
      chosen: over that of choosing blindly) and over that of answering with the source token itself, None where source
      and target differ in width.
    """
    names = dict.fromkeys(name for record in records for name in record if name.endswith("/mean_ratio"))
    edges = {}
    for edge in (name.removeprefix("monitor/").removesuffix("/mean_ratio") for name in names):
        wanted = {"loss": f"train/{edge}"} | {kind: f"monitor/{edge}/{kind}" for kind in ("mean_ratio", "copy_ratio")}
        last = {name: series(records, metric)[1][-CHECKS:] for name, metric in wanted.items()}
        edges[edge] = {name: math.fsum(values) / len(values) if values else None for name, values in last.items()}
    return edges


def by_level(scores: Mapping) -> list[tuple[str, str, dict[str, Mapping]]]:
    """Return (level, label set, {protocol: its numbers}) for all of them, the lowest level first.

    Args:
      scores: may hold more than protocols, as results.json does.
    """
    rows = []
    for level in LEVELS:
        protocols = {
            protocol: scores[protocol][level] for protocol in PROTOCOLS if level in (scores.get(protocol) or {})
        }
        for label_set in dict.fromkeys(name for sets in protocols.values() for name in sets):
            rows.append(
                (
                    level,
                    label_set,
                    {protocol: sets[label_set] for protocol, sets in protocols.items() if label_set in sets},
                )
            )
    return rows


def difference_error(scores: Mapping) -> float:
    """Return the standard error, in points, of trained minus untrained accuracy; NaN where one of them is unknown.

    Both were measured on the same videos, which as a rule makes the true one smaller.
    """
    errors = [scores.get(name) for name in ("standard_error", "untrained_standard_error")]
    return math.nan if None in errors else math.hypot(*errors)
