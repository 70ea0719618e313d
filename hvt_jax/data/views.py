"""Several views of one video: which windows and crops, and how they are read.

A *plan* says what views a method wants; `cut` turns it into frames and places for one video, drawing from a generator
where it draws at all. Views of one size make a *group*; a plan has one group, named "", or several.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np

from hvt_jax.data import sampling, transforms
from hvt_jax.data.readers import Reader
from hvt_jax.data.sampling import ShortVideos
from hvt_jax.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class ViewShape:
    """What the views of a group have in common.

    Attributes:
      length: T, frames in a view.
      stride: frames of the video between two frames of a view.
      height: Y, pixel rows.
      width: X, pixel columns.
      zoom: lowest and highest factor by which frames are enlarged, over what just covers a view, before a view is cut
        out of them at a random place; (1, 1) = the centre.
    """

    length: int
    stride: int
    height: int
    width: int
    zoom: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        if not 1 <= self.zoom[0] <= self.zoom[1] <= 16:
            raise ValueError(f"a zoom of {self.zoom[0]:g} to {self.zoom[1]:g}: needs 1 <= lowest <= highest <= 16")
        sampling.window_span(self.length, self.stride)

    @property
    def span(self) -> int:
        """Frames of the video that a view covers."""
        return sampling.window_span(self.length, self.stride)


@dataclasses.dataclass(frozen=True)
class Views:
    """The V views of a group in one video.

    Attributes:
      shape: what they have in common.
      start: int64 [V], first frame.
      zoom: floats [V], see `ViewShape`.
      places: floats [V, 2], where they lie in the enlarged frame, from the top and from the left, 0 to 1.
    """

    shape: ViewShape
    start: np.ndarray
    zoom: np.ndarray
    places: np.ndarray


class Plan(Protocol):
    """What views a method wants."""

    @property
    def span(self) -> int:
        """Frames that a video needs to give all views without repeating itself."""

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """Return how many views of which shape each group has."""

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """Return the views of a video; the same for equal states of `rng`."""


@dataclasses.dataclass(frozen=True)
class Window:
    """One window, its centre: what training and evaluation see of a video. Batches have no axis of views for it.

    Attributes:
      shape: of the window.
      choice: the one in the middle, one that is drawn, or all, one after the other.
      step: frames between the starts of two windows that can be chosen.
      number: 0, 1, ...: which of the windows of a video it is; draws of different numbers differ while they can.
    """

    shape: ViewShape
    choice: Literal["middle", "drawn", "all"]
    step: int = 1
    number: int = 0

    @property
    def span(self) -> int:
        """See `Plan`."""
        return self.shape.span

    def nth(self, number: int) -> "Window":
        """Return another window of the same video."""
        return dataclasses.replace(self, number=number)

    def groups(self) -> dict[str, tuple[int, ViewShape]]:
        """See `Plan`."""
        return {"": (1, self.shape)}

    def cut(self, num_frames: int, rng: np.random.Generator) -> dict[str, Views]:
        """See `Plan`."""
        start = self.number * self.step
        if self.choice == "middle":
            start = sampling.center_start(num_frames, self.span)
        elif self.choice == "drawn":
            start = sampling.nth_window_start(num_frames, self.span, self.step, self.number, rng)
        return {"": _draw_places(self.shape, np.array([start]), rng)}


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
        start, place = sampling.grid_of_views(num_frames, self.span, self.temporal, self.spatial)
        # Along the shorter side there is no room, so one number serves both sides.
        return {"": Views(self.shape, start, np.ones(len(start)), np.repeat(place[:, None], 2, axis=1))}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two windows of the video for siamese methods, see `sampling.pair_starts` for the distances."""

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
        starts = sampling.pair_starts(num_frames, self.shape.span, self.min_distance, self.max_distance, rng)
        return {"": _draw_places(self.shape, starts, rng)}


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
            name: _draw_places(shape, sampling.random_starts(num_frames, shape.span, count, rng), rng)
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
        broad, narrow = sampling.nested_starts(num_frames, self.broad.span, self.narrow.span, rng)
        return {
            "broad": _draw_places(self.broad, np.array([broad]), rng),
            "narrow": _draw_places(self.narrow, np.array([narrow]), rng),
        }


def test_views(settings: DataSettings) -> TestViews:
    """Return the plan of `data.test_views_temporal` x `data.test_views_spatial` views at the size the model sees."""
    shape = ViewShape(settings.num_frames, settings.frame_stride, settings.height, settings.width)
    return TestViews(shape, settings.test_views_temporal, settings.test_views_spatial)


def read_views(reader: Reader, views: Views, short: ShortVideos, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read views into `pixels`, uint8 [V, T, Y, X, 3]; return top and left of the crops, int32 [V, 2], and own frames.

    Own frames, bool [V, T], are those not repeated to fill a short video. Crops of one window beside each other are cut
    out of frames that are read once.

    Raises:
      VideoError: if the video cannot be read or a frame is missing.
    """
    shape, size = views.shape, (views.shape.height, views.shape.width)
    frames, own = sampling.pick_frames(views.start, shape.length, shape.stride, reader.info.num_frames, short)
    crops = np.zeros((len(frames), 2), np.int32)
    if (views.places == 0.5).all() and (views.zoom == 1).all():
        for numbers, room in zip(frames, pixels, strict=True):
            reader.read(numbers, *size, room)
        return crops, own
    upright, window, before = reader.upright_size(), None, None
    for number, zoom in enumerate(views.zoom):
        box = transforms.cover_box(*upright, *(round(side * zoom) for side in size))
        resized = box.resized_height, box.resized_width
        if before != (int(views.start[number]), resized):
            before = int(views.start[number]), resized
            window = reader.read(frames[number], *resized)
        top, left = crops[number] = sampling.crop_offsets(resized, size, views.places[number])
        pixels[number] = window[:, top : top + size[0], left : left + size[1]]
    return crops, own


def _draw_places(shape: ViewShape, start: np.ndarray, rng: np.random.Generator) -> Views:
    if shape.zoom == (1.0, 1.0):
        return Views(shape, start, np.ones(len(start)), np.full((len(start), 2), 0.5))
    return Views(shape, start, rng.uniform(*shape.zoom, len(start)), rng.uniform(size=(len(start), 2)))
