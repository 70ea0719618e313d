"""The table of a sweep as `sweep.csv`, `sweep.md` and `sweep.png`."""

import csv
import io
import math
import pathlib

from hvt_jax.evaluation.intervals import mean_and_interval
from hvt_jax.run.figures import LEVEL_COLORS
from hvt_jax.run.run_folder import write_file
from hvt_jax.tools.sweep_plan import Setting
from hvt_jax.tools.sweep_results import Cell, Table

_WORDS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "within_pairs": "accuracy within reversed pairs"}
_ROW = 0.34  # inches a setting
_LONGEST_TITLE = 60  # letters of a setting's name beside the picture


def write(table: Table, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write the three files into `folder`, over older ones, and return their paths.

    Raises:
      RunFolderError: if one cannot be written.
    """
    contents = {
        "sweep.csv": to_csv(table).encode(),
        "sweep.md": to_markdown(table).encode(),
        "sweep.png": draw(table),
    }
    for name, content in contents.items():
        write_file(folder / name, content)
    return [folder / name for name in contents]


def to_csv(table: Table) -> str:
    """Return a row for every setting and level: its fields, its mean and interval, and the value of every seed."""
    fields = list(dict.fromkeys(field for setting in table.sweep.settings for field in setting.fields))
    seeds = [f"seed{seed}" for seed in table.sweep.seeds]
    numbers = ["level", "metric", "runs", "mean", "half_width_95", "untrained_mean", "chance"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", *fields, *numbers, *seeds])
    for setting in table.sweep.settings:
        values = [setting.fields.get(field, "") for field in fields]
        for level, cell in table.cells[setting.name].items():
            name = table.metric.name.replace(f"/{table.metric.level}/", f"/{level}/", 1)
            chance = math.nan if cell.chance is None else cell.chance
            known = [cell.mean, cell.half_width, cell.untrained_mean, chance]
            by_seed = [cell.values.get(seed, math.nan) for seed in table.sweep.seeds]
            cells = ["" if math.isnan(number) else f"{number:.6g}" for number in (*known, *by_seed)]
            writer.writerow([setting.name, *values, level, name, len(cell.values), *cells])
    return text.getvalue()


def cells(table: Table) -> list[list[str]]:
    """Return the heads and a row of texts for every setting, the highest mean of a level between stars."""
    levels = table.levels
    best = {level: table.best(level) for level in levels}
    heads = ["setting", "runs", *(f"{level} (compared)" if level == table.metric.level else level for level in levels)]
    rows = [heads]
    for setting in table.sweep.settings:
        known = table.cells[setting.name]
        shown = [_shown(known[level], setting is best[level]) if level in known else "-" for level in levels]
        rows.append([setting.name, f"{table.counts[setting.name]} of {len(table.sweep.seeds)}", *shown])
    return rows


def to_markdown(table: Table) -> str:
    """Return the table, a row for every setting and a column for every level, and what is not in it."""
    metric = table.metric
    words = _WORDS.get(metric.quantity, metric.quantity)
    heads, *rows = [f"| {' | '.join(row)} |" for row in cells(table)]
    lines = [heads, f"|---|---:|{'---:|' * len(table.levels)}", *rows]
    chances = {level: cell.chance for cells in table.cells.values() for level, cell in cells.items()}
    chance = chances[metric.level]
    explained = (
        f"`{metric.name}`, and the same of every other level: {words} in %, {metric.protocol}, of "
        f"`{metric.label_set}`. Mean over seeds ± half the width of its 95 % interval (Student's t), in "
        f"brackets the untrained network{'' if chance is None else f'; chance is {chance:.1f}'}. "
        "Bold: the highest mean of a column. Where intervals overlap, more seeds must tell; the best of many settings "
        "is partly the luckiest."
    )
    missing = "\n".join(f"- {name}: {why}" for name, why in table.missing.items())
    parts = ["# Sweep", explained, "\n".join(lines), missing and f"Not counted:\n\n{missing}", "![sweep](sweep.png)"]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(table: Table) -> bytes:
    """Return a PNG with a panel for every level: every seed's number, the mean and its interval, by setting."""
    from matplotlib.figure import Figure

    settings, levels = table.sweep.settings, table.levels
    figure = Figure(figsize=(2.6 + 2.9 * len(levels), 1.7 + _ROW * len(settings)), layout="constrained")
    metric = table.metric
    words = _WORDS.get(metric.quantity, metric.quantity)
    title = f"{metric.protocol}, {metric.label_set}: {words} (%), mean over seeds and its 95 % interval"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", weight="bold")
    panels = figure.subplots(1, len(levels), squeeze=False, sharex=True, sharey=True)[0]  # one scale for all levels
    for panel, level in zip(panels, levels, strict=True):
        for row, setting in enumerate(settings):
            if cell := table.cells[setting.name].get(level):
                _draw_cell(panel, cell, row, LEVEL_COLORS[level])
        panel.set_title(f"{level} (compared)" if level == metric.level else level, fontsize=10)
        panel.grid(axis="x", color="#e6e6e6", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(settings)), [_title(setting) for setting in settings], fontsize=8)
    panels[0].set_ylim(len(settings) - 0.5, -0.5)  # the first setting on top
    _legend(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def _draw_cell(panel, cell: Cell, row: int, color: str) -> None:
    half = 0.0 if math.isnan(cell.half_width) else cell.half_width
    panel.errorbar(cell.mean, row, xerr=half, fmt="o", color=color, markersize=6, capsize=3, linewidth=1.6)
    values = list(cell.values.values())
    panel.plot(values, [row + 0.2] * len(values), ".", color=color, alpha=0.55, markersize=5)
    if cell.untrained:
        panel.plot(cell.untrained_mean, row, "|", color="#555555", markersize=12)
    if cell.chance is not None:
        panel.axvline(cell.chance, color="#999999", linestyle=(0, (1, 2)), linewidth=1.1)


def _legend(figure) -> None:
    from matplotlib.lines import Line2D

    kinds = {
        "mean and interval": {"marker": "o", "linestyle": "-"},
        "a seed": {"marker": ".", "linestyle": "", "alpha": 0.55},
        "untrained": {"marker": "|", "linestyle": "", "markersize": 12},
        "chance": {"linestyle": (0, (1, 2))},
    }
    handles = [Line2D([], [], color="#555555", label=label, **style) for label, style in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def _title(setting: Setting) -> str:
    name = setting.name
    return name if len(name) <= _LONGEST_TITLE else f"{name[: _LONGEST_TITLE - 3]}..."


def _shown(cell: Cell, is_best: bool) -> str:
    text = mean_and_interval(list(cell.values.values()))
    untrained = f" ({cell.untrained_mean:.1f})" if cell.untrained else ""
    return (f"**{text}**" if is_best else text) + untrained
