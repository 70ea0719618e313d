"""Confusion matrices as a picture: one panel a level, rows the true class, columns the class that is named."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

_MOST_NAMED = 30  # classes above which names would be dust
_PANEL = 3.4  # inches


def draw(title: str, levels: Mapping[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """Return a PNG file with the confusion matrix of every level, each row as shares of its class.

    Args:
      title: what stands above.
      levels: int [classes, classes] by level, from `measures.confusion`.
      class_names: of the label set.
    """
    from matplotlib.figure import Figure

    named = len(class_names) <= _MOST_NAMED
    room = 0.09 * max(map(len, class_names)) if named else 0
    figure = Figure(figsize=(room + _PANEL * len(levels), room + _PANEL + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for axis, (level, counts) in zip(axes, levels.items(), strict=True):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        axis.set_title(level, fontsize=10)
        axis.set_xlabel("named")
        ticks = range(len(class_names)) if named else []
        axis.set_xticks(ticks, [class_names[tick] for tick in ticks], rotation=90, fontsize=8)
        axis.set_yticks(ticks, [class_names[tick] for tick in ticks], fontsize=8)
    axes[0].set_ylabel("true")
    figure.colorbar(image, ax=list(axes), label="share of the class", shrink=0.8)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    return drawn.getvalue()
