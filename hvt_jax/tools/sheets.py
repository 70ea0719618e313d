"""What is drawn of each video that is shown one by one: attention, and the errors of predictions."""

from collections.abc import Iterator, Mapping

import numpy as np

from hvt_jax.data.batches import Batch
from hvt_jax.data.dataset import Dataset
from hvt_jax.evaluation.surprise import map_level
from hvt_jax.hierarchy import Edge
from hvt_jax.run.figures import LEVEL_COLORS
from hvt_jax.run.trained import Trained
from hvt_jax.settings.geometry import patch_pixels
from hvt_jax.tools import film, overlays
from hvt_jax.tools.overlays import Curve, Overlay, Sheet

_BRIGHTEST = 99.0  # percent of errors that are not brighter than the scale goes


def attention(trained: Trained, dataset: Dataset, batch: Batch, found: Mapping[str, np.ndarray]) -> Iterator[Sheet]:
    """Yield a sheet for each video: what each level attends to, the mean of its heads.

    Args:
      trained: whose attention it is.
      dataset: the videos are of.
      batch: the videos.
      found: by level, float [B, G, H, M], see `attention_maps.build_attention`.
    """
    for row, video in enumerate(_centre(trained, batch)):
        maps, curves = {}, {}
        for level, weights in found.items():
            share = weights[row].mean(1) * weights.shape[-1]  # 1: as much as if it were spread evenly
            if level == "frame":
                name = "frame attends to"
                maps[name] = Overlay(_on_patches(trained, share), (0.0, float(share.max())), "x even share")
            else:
                below = "frames" if level == "clip" else "clips"
                most = float(weights.mean(2).max()) * weights.shape[-1]
                name = f"{level} attends to\n{below} (x even share)"
                curves[name] = Curve(share.reshape(-1), 1.0, max(1.5, 1.1 * most), LEVEL_COLORS[level])
        yield Sheet(f"Attention: {_name(dataset, batch, row)}", video, maps, curves)


def surprise(
    trained: Trained, dataset: Dataset, batch: Batch, errors: Mapping[str, Mapping[str, np.ndarray]], edges: list[Edge]
) -> Iterator[Sheet]:
    """Yield a sheet for each video: the error of each prediction, where and when it is made.

    Args:
      trained: whose predictions they are.
      dataset: the videos are of.
      batch: the videos.
      errors: see `surprise.build_surprise`.
      edges: those to be drawn.
    """
    for row, video in enumerate(_centre(trained, batch)):
        maps, curves = {}, {}
        for edge in edges:
            error, blind = (errors[str(edge)][name] for name in ("error", "blind"))
            highest, ignorant = _limit(error), float(np.nanmean(blind))
            if map_level(edge) == "patch":
                mean = f"mean {np.nanmean(error[row]):.2f}, blind {ignorant:.2f}"
                maps[str(edge)] = Overlay(_on_patches(trained, error[row]), (0.0, highest), mean)
            else:
                limit = 1.08 * max(highest, ignorant)
                curves[str(edge)] = Curve(error[row], ignorant, limit, LEVEL_COLORS[edge.source])
        yield Sheet(f"Surprise: {_name(dataset, batch, row)}", video, maps, curves)


def draw(sheet: Sheet) -> Iterator[tuple[str, bytes]]:
    """Yield the ending of a file and its content: the strip as .png, the film as .mp4."""
    yield ".png", film.png(overlays.draw_strip(sheet))
    yield ".mp4", film.mp4(*overlays.draw_film(sheet), len(sheet.video))


def _limit(error: np.ndarray) -> float:
    return max(float(np.nanpercentile(error, _BRIGHTEST)), 1e-6)


def _name(dataset: Dataset, batch: Batch, row: int) -> str:
    video = dataset.videos[int(batch["index"][row])]
    names = zip(dataset.label_names.values(), video.labels, strict=True)
    return f"{', '.join(of[number] for of, number in names)} ({video.path})"


def _centre(trained: Trained, batch: Batch) -> np.ndarray:
    """Return what the model sees of the videos, uint8 [B, T, Y, X, 3], one frame for each of its own."""
    height, width = trained.settings.data.height, trained.settings.data.width
    top, left = ((have - want) // 2 for have, want in zip(batch["video"].shape[2:4], (height, width), strict=True))
    step = trained.definition.hierarchy.frame_step
    return batch["video"][:, step // 2 :: step, top : top + height, left : left + width]


def _on_patches(trained: Trained, values: np.ndarray) -> np.ndarray:
    """Return values in time order, T·P of them in any shape, as [T, rows, columns]."""
    settings = trained.settings
    size = patch_pixels(settings.model)
    return values.reshape(-1, settings.data.height // size, settings.data.width // size)
