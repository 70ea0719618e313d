"""What the runs of a sweep found: which are done, one metric of every level, its mean and interval over seeds."""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hvt_jax.evaluation.intervals import half_width
from hvt_jax.evaluation.results import PROTOCOLS, metric_name
from hvt_jax.hierarchy import LEVELS
from hvt_jax.settings import SettingsError
from hvt_jax.tools.sweep_plan import Run, Setting, Sweep

DONE = "done"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of results.json, known for every level, and the level that settings are compared by."""

    protocol: str
    level: str
    label_set: str
    quantity: str

    @property
    def name(self) -> str:
        """Return `linear/sequence/motion/top1`."""
        return metric_name(self.protocol, self.level, self.label_set, self.quantity)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One metric of one level of one setting.

    Attributes:
      values: by seed.
      untrained: of the untrained network, by seed; empty where it is not known.
      chance: in %, None where it is not known.
    """

    values: Mapping[int, float]
    untrained: Mapping[int, float]
    chance: float | None

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return statistics.mean(self.values.values())

    @property
    def untrained_mean(self) -> float:
        """Return that of the untrained network, NaN where it is not known."""
        return statistics.mean(self.untrained.values()) if self.untrained else math.nan

    @property
    def half_width(self) -> float:
        """Return half the width of its 95 % interval, NaN of one seed."""
        return half_width(list(self.values.values()))


@dataclasses.dataclass(frozen=True)
class Table:
    """A sweep's results.

    Attributes:
      sweep: all settings.
      metric: what is shown, for every level that has it.
      cells: {setting's name: {level: cell}}, levels without a number left out.
      counts: {setting's name: number of its runs that are done}.
      missing: {run's name: why it is not counted}.
    """

    sweep: Sweep
    metric: Metric
    cells: Mapping[str, Mapping[str, Cell]]
    counts: Mapping[str, int]
    missing: Mapping[str, str]

    @property
    def levels(self) -> tuple[str, ...]:
        """Return the levels that any setting has, the lowest first."""
        return tuple(level for level in LEVELS if any(level in cells for cells in self.cells.values()))

    def best(self, level: str) -> Setting:
        """Return the setting of the highest mean at `level`."""
        known = [setting for setting in self.sweep.settings if level in self.cells[setting.name]]
        return max(known, key=lambda setting: self.cells[setting.name][level].mean)


def outcome(run: Run, protocols: Collection[str] = ()) -> str:
    """Return how a run stands: `done`, another outcome of results.json, or in words what is wrong.

    Args:
      run: the run.
      protocols: that it asks when its training is done; without their results it is not.
    """
    if not run.folder.is_dir():
        return "not begun"
    try:
        found = str(_read(run.folder / "results.json")["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return "without results"
    if found == DONE and not set(protocols) <= _asked(run.folder / "evaluation" / "results.json"):
        return "trained, not evaluated"
    return found


def check_metric(name: str) -> None:
    """Refuse what cannot be the name of a metric of results.json.

    Raises:
      SettingsError: in one line.
    """
    parts = name.split("/")
    if name and (len(parts) < 3 or parts[0] not in PROTOCOLS or parts[1] not in LEVELS):
        raise SettingsError(
            f"--metric={name}, but must be PROTOCOL/LEVEL/LABELS/QUANTITY, such as linear/clip/motion/top1, with a "
            f"protocol of {', '.join(PROTOCOLS)} and a level of {', '.join(LEVELS)}"
        )


def tabulate(sweep: Sweep, outcomes: Mapping[Run, str], metric: str) -> Table:
    """Return the table of the runs that are done.

    Args:
      sweep: the settings in the order of the table.
      outcomes: of every run, see `outcome`.
      metric: `linear/clip/motion/top1`, or without the label set, which is then the one evaluated first; "" is the
        top-1 accuracy of the linear probe of the highest level.

    Raises:
      SettingsError: if no run is done, or none has this metric.
    """
    found: dict[str, dict[int, Any]] = {setting.name: {} for setting in sweep.settings}
    missing = {}
    for run, stands in outcomes.items():
        if stands == DONE:
            found[run.setting.name][run.seed] = _read(run.folder / "results.json")
        else:
            missing[run.name] = stands
    results = [one for by_seed in found.values() for one in by_seed.values()]
    if not results:
        raise SettingsError(f"no run of the sweep is done yet: {next(iter(missing))} is {next(iter(missing.values()))}")
    chosen = _find_metric(metric, results)
    cells = {name: _cells(chosen, by_seed) for name, by_seed in found.items()}
    return Table(sweep, chosen, cells, {name: len(by_seed) for name, by_seed in found.items()}, missing)


def _cells(metric: Metric, results: Mapping[int, Any]) -> dict[str, Cell]:
    """Return {level: cell} of one setting from {seed: results.json}."""
    cells = {}
    for level in LEVELS:
        numbers = {
            seed: result.get(metric.protocol, {}).get(level, {}).get(metric.label_set, {})
            for seed, result in results.items()
        }
        values, untrained = (
            {seed: float(found[name]) for seed, found in numbers.items() if name in found}
            for name in (metric.quantity, f"untrained_{metric.quantity}")
        )
        chances = [found["chance"] for found in numbers.values() if "chance" in found]
        if values:
            chance = 50.0 if metric.quantity == "within_pairs" else None
            chance = chances[0] if metric.quantity == "top1" and chances else chance
            cells[level] = Cell(values, untrained, chance)
    return cells


def _find_metric(name: str, results: Sequence[Any]) -> Metric:
    """Return the metric of that name, if any of the results has it."""
    levels = {
        (protocol, level): sets
        for result in results
        for protocol in PROTOCOLS
        for level, sets in result.get(protocol, {}).items()
    }
    if not name:
        linear = [level for level in LEVELS if ("linear", level) in levels]
        if not linear:
            raise SettingsError("no run has a linear probe's accuracy; give another --metric")
        name = f"linear/{linear[-1]}/top1"
    protocol, level, *label_set, quantity = name.split("/")
    sets = levels.get((protocol, level), {})
    labels = "/".join(label_set) or next(iter(sets), "")
    if quantity not in sets.get(labels, {}):
        there = [
            metric_name(*place, labels, quantity)
            for place, sets in levels.items()
            for labels, numbers in sets.items()
            for quantity in ("top1", "top5", "within_pairs")
            if quantity in numbers
        ]
        raise SettingsError(f"--metric={name}, but the runs have {', '.join(there) or 'none: they evaluate nothing'}")
    return Metric(protocol, level, labels, quantity)


def _asked(path: pathlib.Path) -> set[str]:
    """Return the protocols whose results `python -m hvt_jax evaluate` left in a file."""
    try:
        return {name for setup in _read(path)["setups"].values() for name in setup["protocols"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
