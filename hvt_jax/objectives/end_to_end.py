"""What the methods share that train the whole hierarchy by one loss on top of it."""

from typing import Any

import jax

from hvt_jax.data.sampling import ViewShape
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.objectives.method import Method, ViewSize
from hvt_jax.settings import DataSettings, Settings, SettingsError
from hvt_jax.settings.geometry import model_hierarchy, patch_pixels


class EndToEnd(Method):
    """One loss on top of the hierarchy, whose gradient goes through every level.

    Attributes:
      parts: names of what the model has beside the hierarchy; the first one stands for the loss in the audit.
      what: the summary.
    """

    parts: tuple[str, ...] = ()
    what: str = ""
    borders = "the method trains end to end, so its loss moves every level"

    def summary(self, settings: Settings, hierarchy: Hierarchy) -> str:
        """Return one line that says what is trained, and by what."""
        del settings
        return f"all levels end to end through the {hierarchy.levels[-1]} tokens: {self.what}"

    def groups(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the levels and the parts on top."""
        return (*hierarchy, *self.parts)

    def owners(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the first part: there is one loss."""
        del hierarchy
        return self.parts[:1]

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy, without predictions.

        Raises:
          SettingsError: if the config is from before there was this method.
        """
        if getattr(settings, settings.method) is None:
            raise SettingsError(f"config.{settings.method} is missing; start from configs/default.py")
        return hierarchy

    def metrics(self, losses: Any) -> dict[str, jax.Array]:
        """Return nothing: the loss is all."""
        del losses
        return {}

    def owned_losses(self, losses: Any) -> dict[str, jax.Array]:
        """Return the loss."""
        return {self.parts[0]: losses.total}


def top_width(settings: Settings, hierarchy: Hierarchy) -> int:
    """Return the width of the tokens of the top level."""
    return getattr(settings.model, hierarchy.levels[-1]).width


def full_size(data: DataSettings, area: tuple[float, ...] | None = None) -> ViewSize:
    """Return the size of a view that is as large as `data` says, showing the share `area` of the frame."""
    return ViewSize(data.height, data.width, area)


def full_view(data: DataSettings, *, length: int = 0, stride: int = 0) -> ViewShape:
    """Return how a view is cut of whole frames: as many and as far apart as `data` says, if nothing else is asked."""
    height, width = (round(side * data.resize_margin) for side in (data.height, data.width))
    return ViewShape(length or data.num_frames, stride or data.frame_stride, height, width)


def smaller_size(settings: Settings, share: float) -> tuple[int, int]:
    """Return rows and columns in pixels of a view with about `share` of the full ones, in whole patches."""
    patch = patch_pixels(settings.model)
    height, width = (
        max(1, round(side * share / patch)) * patch for side in (settings.data.height, settings.data.width)
    )
    return height, width


def view_hierarchy(settings: Settings, num_frames: int, size: tuple[int, int], field: str) -> Hierarchy:
    """Return the sizes of views of `num_frames` frames and `size` pixels; `field` is what says how many frames.

    Raises:
      SettingsError: if the frames cannot be cut into clips.
    """
    try:
        return model_hierarchy(settings.model, num_frames=num_frames, height=size[0], width=size[1])
    except SettingsError as error:
        raise SettingsError(str(error).replace("data.num_frames", field)) from error


def patch_grid(settings: Settings, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the patches of frames of `size` pixels."""
    patch = patch_pixels(settings.model)
    return size[0] // patch, size[1] // patch
