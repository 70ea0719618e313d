"""Pictures of one video: maps over its patches, and curves over its time, as a strip and as a film."""

import dataclasses
from collections.abc import Callable

import numpy as np

from hvt_jax.tools import film

_CELL = 1.25  # inches, height of a frame in a strip
_MOST_FRAMES = 8  # columns of a strip
_LEFT, _RIGHT, _TOP, _BOTTOM = 2.05, 0.9, 0.55, 0.5  # inches around it
_CURVE = 0.8  # inches
_STRENGTH = 0.62  # of a map over the grey frame


@dataclasses.dataclass(frozen=True)
class Overlay:
    """One quantity over the patches of every frame.

    Attributes:
      values: float [T, rows, columns], NaN where there is none.
      limits: the values of the darkest and the brightest colour.
      note: what else is to be known of it, one line.
    """

    values: np.ndarray
    limits: tuple[float, float]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One quantity over time.

    Attributes:
      values: float [N], one for each of N equal parts of the time, NaN where there is none.
      baseline: drawn beside it, dashed: what it would be if nothing were known.
      highest: of the axis, the same for all videos.
      color: of the curve.
    """

    values: np.ndarray
    baseline: float
    highest: float
    color: str


@dataclasses.dataclass(frozen=True)
class Sheet:
    """All that is drawn of one video.

    Attributes:
      title: one line.
      video: uint8 [T, Y, X, 3].
      maps: by name.
      curves: by name.
    """

    title: str
    video: np.ndarray
    maps: dict[str, Overlay]
    curves: dict[str, Curve]


def draw_strip(sheet: Sheet):
    """Return a figure: a row of frames, a row for each map, and curves on the same axis of time."""
    from matplotlib.figure import Figure

    shown = film.spread(len(sheet.video), _MOST_FRAMES)
    width = len(shown) * _CELL * sheet.video.shape[2] / sheet.video.shape[1]
    heights = [_CELL] * (1 + len(sheet.maps)) + [_CURVE] * len(sheet.curves)
    bottom = _BOTTOM if sheet.curves else 0.1
    size = (_LEFT + width + _RIGHT, _TOP + sum(heights) + bottom)
    figure = Figure(figsize=size)
    figure.suptitle(
        film.plain(sheet.title, 110), fontsize=11, x=0.02, ha="left", y=1 - 0.22 / size[1], va="center", weight="bold",
        parse_math=False,
    )  # fmt: skip
    borders = {"left": _LEFT / size[0], "right": 1 - _RIGHT / size[0]}
    borders |= {"bottom": bottom / size[1], "top": 1 - _TOP / size[1]}
    grid = figure.add_gridspec(len(heights), len(shown), height_ratios=heights, wspace=0.04, hspace=0.1, **borders)
    for row, (name, overlay) in enumerate({"video": None, **sheet.maps}.items()):
        for column, index in enumerate(shown):
            axis = figure.add_subplot(grid[row, column])
            heat = _show_frame(axis, sheet.video[index], overlay, index)
            if not row:
                axis.set_title(f"frame {index}", fontsize=8, pad=3)
            if not column:
                _name_row(axis, name, "" if overlay is None else overlay.note)
        if overlay is not None:
            _add_scale(figure, axis, heat)
    for row, (name, curve) in enumerate(sheet.curves.items(), start=1 + len(sheet.maps)):
        axis = figure.add_subplot(grid[row, :])
        _draw_curve(axis, curve, len(sheet.video), is_last=row == len(heights) - 1)
        _name_row(axis, name, "")
    return figure


def draw_film(sheet: Sheet) -> tuple[object, Callable[[int], None]]:
    """Return a figure with the clip beside its maps and the curves under them, and what shows frame n of it."""
    from matplotlib.figure import Figure

    panels = {"video": None, **sheet.maps}
    cell = 2.3
    width = max(cell * sheet.video.shape[2] / sheet.video.shape[1] * len(panels), 4.5)
    heights = [cell + 0.25] + [_CURVE] * len(sheet.curves)
    size = (width + 0.5, sum(heights) + 0.55 + (0.35 if sheet.curves else 0))
    figure = Figure(figsize=size)
    figure.suptitle(
        film.plain(sheet.title, int(size[0] * 10)), fontsize=10, x=0.02, ha="left", y=1 - 0.18 / size[1], va="center",
        parse_math=False,
    )  # fmt: skip
    borders = {"left": 0.45 / size[0], "right": 1 - 0.1 / size[0], "top": 1 - 0.5 / size[1]}
    borders["bottom"] = (0.45 if sheet.curves else 0.1) / size[1]
    grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights, wspace=0.05, hspace=0.35, **borders)
    images, cursors = [], []
    for column, (name, overlay) in enumerate(panels.items()):
        axis = figure.add_subplot(grid[0, column])
        axis.set_title(name, fontsize=9, pad=3)
        heat = _show_frame(axis, sheet.video[0], overlay, 0)
        images.append((axis.images[0], heat, overlay))
    for row, (name, curve) in enumerate(sheet.curves.items(), start=1):
        axis = figure.add_subplot(grid[row, :])
        _draw_curve(axis, curve, len(sheet.video), is_last=row == len(heights) - 1)
        axis.set_title(name, fontsize=8, pad=2, loc="left")
        cursors.append(axis.axvline(0.5, color="#222222", linewidth=1.2))

    def show(number: int) -> None:
        for picture, heat, overlay in images:
            picture.set_data(sheet.video[number] if overlay is None else _grey(sheet.video[number]))
            if overlay is not None:
                heat.set_data(_masked(overlay.values[number]))
        for cursor in cursors:
            cursor.set_xdata([number + 0.5] * 2)

    return figure, show


def _show_frame(axis, frame: np.ndarray, overlay: Overlay | None, index: int):
    """Draw a frame, grey under its map if it has one; return the image of the map."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if overlay is None:
        axis.imshow(frame)
        return None
    axis.imshow(_grey(frame))
    rows, columns = frame.shape[:2]
    low, high = overlay.limits
    return axis.imshow(
        _masked(overlay.values[index]),
        cmap="inferno",
        vmin=low,
        vmax=high,
        alpha=_STRENGTH,
        interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = (frame @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _masked(values: np.ndarray) -> np.ndarray:
    return np.ma.masked_invalid(values)


def _name_row(axis, name: str, note: str) -> None:
    axis.annotate(
        f"{name}\n{note}" if note else name,
        (0, 0.5),
        xycoords="axes fraction",
        xytext=(-30 if axis.get_yticks().size else -8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8.5,
    )


def _add_scale(figure, axis, heat) -> None:
    """Put a scale of colours to the right of the last frame of a row."""
    scale = figure.colorbar(heat, cax=axis.inset_axes((1.08, 0.04, 0.07, 0.92)))
    scale.ax.tick_params(labelsize=7, length=2)
    scale.outline.set_visible(False)
    scale.locator = _few_ticks()
    scale.update_ticks()


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)


def _draw_curve(axis, curve: Curve, frames: int, *, is_last: bool) -> None:
    edges = np.linspace(0, frames, len(curve.values) + 1)
    axis.stairs(np.nan_to_num(curve.values), edges, color=curve.color, fill=True, alpha=0.25)
    axis.stairs(curve.values, edges, color=curve.color, linewidth=1.6, baseline=None)
    axis.axhline(curve.baseline, color="#888888", linestyle=(0, (4, 2)), linewidth=1)
    axis.set(xlim=(0, frames), ylim=(0, curve.highest))
    axis.yaxis.set_major_locator(_few_ticks())
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    if is_last:
        axis.set_xlabel("frame of the clip", fontsize=8)
    else:
        axis.set_xticklabels([])
