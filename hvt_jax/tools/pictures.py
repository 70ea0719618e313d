"""Pictures of many videos: maps of their features, and nearest neighbours as film strips."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hvt_jax.tools import film

MOST_NAMED = 20  # classes that a legend names; beyond, colours only
_PANEL = (3.4, 3.2)  # inches
_RIGHT, _WRONG = "#2e7d32", "#c0392b"


class Labels(NamedTuple):
    """One label set of some videos.

    Attributes:
      number: int [videos], the class of each.
      names: of the classes.
    """

    number: np.ndarray
    names: tuple[str, ...]


class Found(NamedTuple):
    """A video and what is said of it.

    Attributes:
      strip: uint8 [Y, X, 3].
      classes: name of its class in every label set, in the order of the label sets.
    """

    strip: np.ndarray
    classes: tuple[str, ...]


def class_colors(count: int) -> list[str]:
    """Return a colour for each of `count` classes, as `#rrggbb`; neighbours differ as far as can be."""
    from matplotlib import colormaps, colors

    if count <= 20:
        table = colormaps["tab10" if count <= 10 else "tab20"]
        return [colors.to_hex(table(number)) for number in range(count)]
    golden = np.arange(count) * 0.6180339887 % 1
    return [colors.to_hex(colors.hsv_to_rgb((hue, 0.55 + 0.4 * (n % 2), 0.85))) for n, hue in enumerate(golden)]


def draw_maps(title: str, points: Mapping[str, np.ndarray], labels: Mapping[str, Labels]):
    """Return a figure with a row for each label set and a column for each level.

    Args:
      title: of the figure.
      points: by level, float [videos, 2].
      labels: by label set.
    """
    from matplotlib.figure import Figure

    rows, columns = len(labels), len(points)
    figure = Figure(figsize=(_PANEL[0] * columns + 1.6, _PANEL[1] * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold", parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    size = float(np.clip(7000 / max(1, len(next(iter(points.values())))), 5, 40))
    for row, (label_set, found) in zip(axes, labels.items(), strict=True):
        colors = class_colors(len(found.names))
        for axis, (level, place) in zip(row, points.items(), strict=True):
            axis.scatter(*place.T, c=[colors[number] for number in found.number], s=size, linewidths=0, alpha=0.85)
            axis.set_title(f"{level}, by {film.plain(label_set)}", fontsize=10, parse_math=False)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#cccccc")
        if len(found.names) <= MOST_NAMED:
            _name_classes(row[-1], found.names, colors)
        else:
            row[-1].annotate(
                f"{len(found.names)} classes", (1.02, 0.98), xycoords="axes fraction", va="top", fontsize=8
            )
    return figure


def _name_classes(axis, names: tuple[str, ...], colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], marker="o", linestyle="", color=color, markersize=5) for color in colors]
    # The legend is given numbers and then the names: one that begins with _ would be left out, and $ is mathematics.
    legend = axis.legend(
        dots, [str(number) for number in range(len(names))], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(parse_math=False, text=film.plain(name), fontsize=8)


def draw_neighbours(title: str, rows: list[tuple[Found, list[tuple[Found, float]]]]):
    """Return a figure with a query on the left of every row and its neighbours, the nearest first.

    Under each neighbour stand its similarity and its classes, green where they are the query's, red and struck with a
    frame where not; the frame goes by the first label set.

    Args:
      title: of the figure.
      rows: queries, each with its neighbours and their similarities.
    """
    from matplotlib.figure import Figure

    columns, lines = 1 + max(len(found) for _, found in rows), len(rows[0][0].classes)
    shape = rows[0][0].strip.shape
    width = 2.0
    height = width * shape[0] / shape[1] + 0.17 * (lines + 1)
    figure = Figure(figsize=(width * columns + 0.3, height * len(rows) + 0.75))
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - 0.65 / figure.get_figheight(), bottom=0.02, wspace=0.06, hspace=0.05
    )
    figure.text(0.01, 1 - 0.22 / figure.get_figheight(), title, fontsize=12, weight="bold", va="center")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for number, (row, (query, found)) in enumerate(zip(axes, rows, strict=True)):
        _show(row[0], query.strip, [(name, "#333333") for name in query.classes], "#333333")
        for axis, (neighbour, similarity) in zip(row[1:], found, strict=False):
            same = [one == other for one, other in zip(neighbour.classes, query.classes, strict=True)]
            words = [(name, _RIGHT if right else _WRONG) for name, right in zip(neighbour.classes, same, strict=True)]
            words = [(f"{similarity:.3f}", "#777777"), *words]
            _show(axis, neighbour.strip, words, _RIGHT if same[0] else _WRONG)
        for axis in row[1 + len(found) :]:
            axis.set_axis_off()
        if not number:
            row[0].set_title("test video", fontsize=9)
            for rank, axis in enumerate(row[1:], start=1):
                axis.set_title(f"neighbour {rank}", fontsize=9)
    return figure


def _show(axis, strip: np.ndarray, words: list[tuple[str, str]], color: str) -> None:
    """Draw a strip in a frame, with coloured words under it."""
    axis.imshow(strip)
    axis.set_anchor("N")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(color=color, linewidth=2)
    for line, (word, word_color) in enumerate(words):
        axis.annotate(
            film.plain(word, 30),
            (0.0, 0.0),
            xycoords="axes fraction",
            xytext=(0, -3 - 11 * line),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=word_color,
            parse_math=False,
        )
