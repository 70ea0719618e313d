"""Plans of several views of one video, see `sampling.Plan`."""

import dataclasses

import numpy as np

from hvt_jax.data import sampling
from hvt_jax.data.sampling import Views, ViewShape, draw_places
from hvt_jax.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class TestViews:
    """Windows spread evenly over the video, each with crops along the longer side; draws nothing."""

    shape: ViewShape
    temporal: int
    spatial: int
    __test__ = False  # not a class of tests

    @property
    def span(self) -> int:
        """See `Plan`."""
        return self.shape.span

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"": (self.temporal * self.spatial, self.shape)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        del rng
        start, place = grid_of_views(num_frames, self.span, self.temporal, self.spatial)
        # Along the shorter side there is no room, so one number serves both sides.
        return {"": Views(self.shape, start, np.ones(len(start)), np.repeat(place[:, None], 2, axis=1))}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two windows of the video for siamese methods, see `pair_starts` for the distances."""

    shape: ViewShape
    min_distance: int = 0
    max_distance: int = 0

    @property
    def span(self) -> int:
        """See `Plan`."""
        return self.shape.span + self.min_distance

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"": (2, self.shape)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        starts = pair_starts(num_frames, self.shape.span, self.min_distance, self.max_distance, rng)
        return {"": draw_places(self.shape, starts, rng)}


@dataclasses.dataclass(frozen=True)
class MultiCrop:
    """Global and local views with lengths, rates and sizes of their own, each drawn alone (DINO, SVT)."""

    global_shape: ViewShape
    num_global: int
    local_shape: ViewShape
    num_local: int

    @property
    def span(self) -> int:
        """See `Plan`."""
        return max(self.global_shape.span, self.local_shape.span)

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"global": (self.num_global, self.global_shape), "local": (self.num_local, self.local_shape)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        return {
            name: draw_places(shape, sampling.random_starts(num_frames, shape.span, count, rng), rng)
            for name, (count, shape) in self.groups().items()
        }


@dataclasses.dataclass(frozen=True)
class NarrowBroad:
    """A broad view, long and coarse, and a narrow one, short and fine, inside its time.

    Recasens et al.: "Broaden Your Views for Self-Supervised Video Learning", ICCV 2021, arXiv:2103.16559. Their code
    has 16 frames of stride 2 at 224x224 pixels inside 64 frames of stride 4 at 112x112, at 25 frames per second.
    """

    narrow: ViewShape
    broad: ViewShape

    def __post_init__(self):
        if self.narrow.span > self.broad.span:
            raise ValueError(
                f"a narrow view of {self.narrow.span} frames does not fit a broad one of {self.broad.span}"
            )

    @property
    def span(self) -> int:
        """See `Plan`."""
        return self.broad.span

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"broad": (1, self.broad), "narrow": (1, self.narrow)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        broad, narrow = nested_starts(num_frames, self.broad.span, self.narrow.span, rng)
        return {
            "broad": draw_places(self.broad, np.array([broad]), rng),
            "narrow": draw_places(self.narrow, np.array([narrow]), rng),
        }


def test_views(settings: DataSettings) -> TestViews:
    """Return the plan of `data.test_views_temporal` x `data.test_views_spatial` views at the size the model sees."""
    shape = ViewShape(settings.num_frames, settings.frame_stride, settings.height, settings.width)
    return TestViews(shape, settings.test_views_temporal, settings.test_views_spatial)


def uniform_starts(num_frames: int, span: int, count: int) -> np.ndarray:
    """Return the starts, int64 [count], of windows spread evenly from the first frame to the last; one is the centre.

    Starts repeat where the video has fewer than `count` windows.
    """
    if count == 1:
        return np.array([sampling.center_start(num_frames, span)])
    return np.round(np.linspace(0, max(0, num_frames - span), count)).astype(np.int64)


def pair_starts(
    num_frames: int, span: int, min_distance: int, max_distance: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the starts of two windows of one video, int64 [2], all pairs that are allowed being equally likely.

    Args:
      num_frames: frames of the video.
      span: frames that a window covers.
      min_distance: frames between the starts at least; as many as there can be in a video that is too short for it.
      max_distance: frames between the starts at most; 0 = any, so that with both 0 the windows are independent.
      rng: what to draw from.
    """
    if min_distance < 0 or max_distance < 0 or 0 < max_distance < min_distance:
        raise ValueError(f"two windows {min_distance} to {max_distance} frames apart: needs 0 <= least <= most")
    starts = max(1, num_frames - span + 1)
    least = min(min_distance, starts - 1)
    distances = np.arange(least, min(max_distance or starts - 1, starts - 1) + 1)
    pairs = (starts - distances) * np.where(distances > 0, 2, 1)
    drawn = int(rng.integers(pairs.sum()))
    place = int(np.searchsorted(np.cumsum(pairs), drawn, side="right"))
    distance = int(distances[place])
    first, swapped = divmod(int(pairs[: place + 1].sum()) - 1 - drawn, 2 if distance else 1)
    return np.array([first + distance, first] if swapped else [first, first + distance])


def nested_starts(num_frames: int, outer_span: int, inner_span: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return the starts of a window and of a shorter one inside it, both drawn evenly, as BraVe draws its views.

    In a video shorter than the outer window the inner one stays inside the video.
    """
    if inner_span > outer_span:
        raise ValueError(f"a window of {inner_span} frames does not fit into one of {outer_span}")
    outer = int(sampling.random_starts(num_frames, outer_span, 1, rng)[0])
    return outer, outer + int(sampling.random_starts(min(outer_span, num_frames), inner_span, 1, rng)[0])


def grid_of_views(num_frames: int, span: int, temporal: int, spatial: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the views of a video for testing, the spatial ones of a window beside each other.

    Args:
      num_frames: frames of the video.
      span: frames that a window covers.
      temporal: windows, spread evenly, see `uniform_starts`.
      spatial: crops of each window along the longer side, from one end to the other; one is the centre.

    Returns:
      Starts, int64 [temporal * spatial], and where each crop lies along the longer side, 0 to 1.
    """
    places = np.linspace(0.0, 1.0, spatial) if spatial > 1 else np.array([0.5])
    return np.repeat(uniform_starts(num_frames, span, temporal), spatial), np.tile(places, temporal)
