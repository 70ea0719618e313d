"""Pictures of a run from its metrics: losses, accuracies, monitors and gradients, per level.

One colour per level in every picture. matplotlib is imported when a picture is drawn, not before, and
used without its global state, so drawing needs no display and disturbs no notebook.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvt_jax import disk
from hvt_jax.engine.alarms import DEAD_STD, RANK_SHARE_LIMIT, RATIO_LIMIT, series
from hvt_jax.evaluation.results import by_level, metric_name
from hvt_jax.evaluation.verdict import TITLES
from hvt_jax.hierarchy import LEVELS
from hvt_jax.run.run_folder import ELSEWHERE, RunFolderError, write_file

LEVEL_COLORS = {"patch": "#8c6bb1", "frame": "#2b7bba", "clip": "#e07b39", "sequence": "#3a9a5b"}
RELATION_COLORS = {"up": "#2b7bba", "down": "#e07b39", "side": "#3a9a5b"}
PROTOCOL_COLORS = {"knn": "#7f7f7f", "linear": "#2b7bba", "mlp": "#e07b39"}
RELATION_STYLES = {"up": "-", "down": "--", "side": ":"}
ALARM_COLOR, HEAD_COLOR = "#c0392b", "#777777"
_MANY_POINTS = 40  # above this a curve is smoothed and the raw values stay visible behind it
_PANEL = (4.2, 2.9)  # inches


def draw_all(folder: Path, metrics: Sequence[Mapping], evaluated: Mapping) -> dict[str, Path]:
    """Draw every picture that the metrics have numbers for, as PNG files.

    Args:
      folder: made if missing.
      metrics: records of metrics.jsonl; a metric need not be in every record, NaN leaves a gap.
      evaluated: the results, see `report.write_report`; may be empty.

    Returns:
      by name ("losses", "head", "accuracy", "pairs", "monitors", "gradients") the file, of those that were drawn.

    Raises:
      RunFolderError: if a file cannot be written.
    """
    with disk.refusals_as(RunFolderError, folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "losses": _losses(metrics),
        "head": _head(metrics),
        "accuracy": _accuracies(metrics, evaluated, "top1", "What is read from frozen features"),
        "pairs": _accuracies(metrics, evaluated, "within_pairs", "A class against its reverse in time"),
        "monitors": _monitors(metrics),
        "gradients": _gradients(metrics),
    }
    files = {}
    for name, figure in drawings.items():
        if figure is not None:
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=110)
            files[name] = folder / f"{name}.png"
            write_file(files[name], drawn.getvalue())
    return files


def _losses(metrics: Sequence[Mapping]):
    names = _names(metrics)
    edges = {level: [n for n in names if n.startswith(f"train/{level}->")] for level in LEVELS}
    levels = [level for level in LEVELS if edges[level]]
    if not levels:
        return None
    figure, axes = _panels(len(levels), _columns(len(levels)), "Training losses, by the level that predicts")
    for axis, level in zip(axes, levels, strict=True):
        for name in edges[level]:
            edge, relation = name.removeprefix("train/").split("/")
            _curve(axis, metrics, name, f"{relation}: {edge.split('->')[1]}", RELATION_COLORS[relation])
        _finish(axis, level, ylabel="loss", zero=True)
        axis.legend(fontsize=8, frameon=False)
    return figure


def _head(metrics: Sequence[Mapping]):
    if "train/top1" not in _names(metrics):
        return None
    figure, axes = _panels(2, 2, "The head: training by labels")
    _curve(axes[0], metrics, "train/total", None, HEAD_COLOR)
    _finish(axes[0], "loss of the training batch", ylabel="negative log likelihood", zero=True)
    _curve(axes[1], metrics, "train/top1", "training batch", HEAD_COLOR)
    _curve(axes[1], metrics, "test/top1", "test videos", ALARM_COLOR, marker="o")
    chances = series(metrics, "test/chance")[1]
    _level_line(axes[1], chances[-1] if chances else None, "chance", "#999999", (0, (1, 2)))
    _finish(axes[1], "accuracy of the head", ylabel="top-1 accuracy (%)", zero=True)
    axes[1].legend(fontsize=8, frameon=False)
    return figure


def _accuracies(metrics: Sequence[Mapping], evaluated: Mapping, quantity: str, title: str):
    """Draw one quantity of all protocols, a panel for every level and a row for every label set that has it."""
    rows = [row for row in by_level(evaluated) if any(quantity in scores for scores in row[2].values())]
    # The untrained network alone is no curve.
    if all(scores.get("evaluated_step") == 0 for *_, found in rows for scores in found.values()):
        return None
    label_sets = dict.fromkeys(label_set for _, label_set, _ in rows)
    rows = [row for label_set in label_sets for row in rows if row[1] == label_set]
    levels = len({level for level, *_ in rows})
    figure, axes = _panels(len(rows), _columns(levels), title)
    for axis, (level, label_set, found) in zip(axes, rows, strict=True):
        for protocol, scores in found.items():
            color = PROTOCOL_COLORS[protocol]
            _curve(
                axis, metrics, metric_name(protocol, level, label_set, quantity), TITLES[protocol], color, marker="o"
            )
            _level_line(axis, scores.get(f"untrained_{quantity}"), None, color, (0, (5, 2)))
            _level_line(axis, scores.get(f"supervised_{quantity}"), None, color, (0, (6, 2, 1, 2)))
        chance = 50.0 if quantity == "within_pairs" else next(iter(found.values())).get("chance")
        _level_line(axis, chance, "chance", "#999999", (0, (1, 2)))
        axis.plot([], [], color="#555555", linestyle=(0, (5, 2)), label="untrained")
        if any(f"supervised_{quantity}" in scores for scores in found.values()):
            axis.plot([], [], color="#555555", linestyle=(0, (6, 2, 1, 2)), label="supervised")
        _finish(axis, f"{level}: {label_set}", ylabel="accuracy (%)", zero=True)
    for start in range(0, len(axes), levels):
        row = axes[start : start + levels]
        highest = max(axis.get_ylim()[1] for axis in row)
        for axis in row:
            axis.set_ylim(0, highest)  # the same scale for all levels
    _shared_legend(figure, axes)
    return figure


def _monitors(metrics: Sequence[Mapping]):
    names = _names(metrics)
    if not any(name.startswith("monitor/") for name in names):
        return None
    figure, axes = _panels(5, 2, "Signs of collapse, before the norm, and what losses are worth")
    panels = (
        ("rank_share", "effective rank, share of the largest possible", RANK_SHARE_LIMIT, False),
        ("std", "standard deviation of a feature", DEAD_STD, True),
        ("cosine", "mean cosine of two tokens", None, False),
    )
    for axis, (name, title, limit, logarithmic) in zip(axes, panels, strict=False):
        for level in LEVELS:
            _curve(axis, metrics, f"monitor/{level}/{name}", level, LEVEL_COLORS[level])
        _level_line(axis, limit, "alarm", ALARM_COLOR, (0, (5, 2)))
        _finish(axis, title, logarithmic=logarithmic, zero=not logarithmic)
    ratios = {
        "mean_ratio": "loss over that of the mean answer, by source",
        "copy_ratio": "loss over that of copying the source, by source",
    }
    for axis, (kind, title) in zip(axes[3:], ratios.items(), strict=True):
        for name in (name for name in names if name.endswith(f"/{kind}")):
            edge, relation = name.removeprefix("monitor/").split("/")[:2]
            style = {"color": LEVEL_COLORS[edge.split("->")[0]], "linestyle": RELATION_STYLES[relation]}
            _curve(axis, metrics, name, None, **style)
            axis.plot([], [], color="#333333", linestyle=style["linestyle"], label=relation)
        _level_line(axis, RATIO_LIMIT, "alarm", ALARM_COLOR, (0, (5, 2)))
        _finish(axis, title, zero=True)
    _shared_legend(figure, axes)
    return figure


def _gradients(metrics: Sequence[Mapping]):
    kinds = ("gradient_norm", "update_norm")
    kinds = [kind for kind in kinds if any(name.startswith(f"{kind}/") for name in _names(metrics))]
    if not kinds:
        return None
    figure, axes = _panels(len(kinds), len(kinds), "Gradients and updates")
    for axis, kind in zip(axes, kinds, strict=True):
        for level in LEVELS:
            _curve(axis, metrics, f"{kind}/{level}", level, LEVEL_COLORS[level])
            _curve(axis, metrics, f"{kind}/{level}/predictors", None, LEVEL_COLORS[level], linestyle="--")
        _curve(axis, metrics, f"{kind}/head", "head", HEAD_COLOR)
        axis.plot([], [], color="#333333", linestyle="--", label="predictors of the level")
        _finish(axis, kind.replace("_", " "), ylabel="norm", logarithmic=True)
    _shared_legend(figure, axes)
    return figure


def _names(metrics: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(name for record in metrics for name in record))


def _columns(num_levels: int) -> int:
    return num_levels if num_levels <= 3 else 2


def _panels(count: int, columns: int, title: str):
    """Return a figure and the list of its `count` axes, row by row."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    size = (max(_PANEL[0] * columns, 6.0), _PANEL[1] * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _shared_legend(figure, axes) -> None:
    """Put one legend for all panels below them."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: label not in LEVELS)
    handles = [handles[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=8, frameon=False)


def _curve(axis, metrics: Sequence[Mapping], name: str, label: str | None, color: str, **style) -> None:
    """Draw one metric over steps, if it has values; long ones with a running mean in front."""
    steps, values = series(metrics, name)
    if not steps:
        return
    if len(steps) > _MANY_POINTS:
        axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
        values = _running_mean(values, max(3, len(values) // _MANY_POINTS))
    elif len(steps) == 1:
        style = {"marker": "o", **style}  # a line needs two points
    axis.plot(steps, values, color=color, label=label, linewidth=1.6, markersize=4, **style)


def _running_mean(values: Sequence[float], length: int) -> list[float]:
    """Return the mean of each value with those up to `length` before it; NaN and Inf count as missing."""
    means = []
    for end in range(1, len(values) + 1):
        window = [value for value in values[max(0, end - length) : end] if math.isfinite(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def _level_line(axis, value: float | None, label: str | None, color: str, dashes) -> None:
    if value is not None and math.isfinite(value):
        axis.axhline(value, color=color, linestyle=dashes, linewidth=1.1, label=label)


def _finish(axis, title: str, *, ylabel: str = "", zero: bool = False, logarithmic: bool = False) -> None:
    """Give a panel its words and a quiet grid; `zero`: the vertical axis starts at or below 0."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8, which="both")
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    # Zeros alone, as of a run without a good update, have no place on a logarithmic scale.
    if logarithmic and any(0 < value < math.inf for line in axis.get_lines() for value in line.get_ydata()):
        axis.set_yscale("log", subs=(2, 5))
        for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            set_formatter(lambda value, _: f"{value:g}")
    elif zero or logarithmic:
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, 0) if low < -0.02 * high else 0, high + 0.05 * abs(high))
