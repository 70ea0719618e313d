"""Small pictures of videos: film strips, and figures as PNG or as the frames of an .mp4."""

import base64
import io
import warnings
from collections.abc import Callable, Iterator

import av
import numpy as np

from hvt_jax.data import transforms
from hvt_jax.tools import encode

FRAMES_PER_SECOND = 2.0  # of a clip shown beside its maps: slow enough to look at
_STRIP_FRAMES, _STRIP_HEIGHT = 4, 48
_CRF = 20


def film_strip(video: np.ndarray, *, frames: int = _STRIP_FRAMES, height: int = _STRIP_HEIGHT) -> np.ndarray:
    """Return frames of a video beside each other, from first to last, uint8 [height, W, 3].

    Args:
      video: uint8 [T, Y, X, 3] in RGB.
      frames: how many, at most T.
      height: in pixels.
    """
    width = max(1, round(video.shape[2] * height / video.shape[1]))
    shown = [video[index] for index in spread(len(video), frames)]
    parts = [
        transforms.to_rgb(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"), height, width, True)
        for frame in shown
    ]
    return np.concatenate(parts, axis=1)


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the numbers 0 to count - 1, evenly spread and going up, int64."""
    most = min(count, most)
    return ((np.arange(most) + 0.5) * count / max(most, 1)).astype(np.int64)


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as an address that holds it, such as `data:image/png;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def plain(name: str, most: int = 24) -> str:
    """Return a name that may hold anything as one short line that can be drawn."""
    name = name.encode("utf-8", "replace").decode("utf-8")
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= most else f"{name[: most - 3]}..."


def png(figure, dpi: int = 90) -> bytes:
    """Return a matplotlib figure as a PNG file."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names may be in any script
        figure.savefig(drawn, dpi=dpi, format="png")
    return drawn.getvalue()


def mp4(figure, show: Callable[[int], object], count: int, dpi: int = 100) -> bytes:
    """Return a figure in motion as an .mp4 file: `show(n)` changes it to what frame n of `count` shows."""
    return encode.encode_mp4(_draw_frames(figure, show, count, dpi), FRAMES_PER_SECOND, count, _CRF)


def _draw_frames(figure, show: Callable[[int], object], count: int, dpi: int) -> Iterator[np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    for number in range(count):
        show(number)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        yield pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
