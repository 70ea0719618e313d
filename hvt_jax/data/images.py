"""From the bytes of JPEG or PNG pictures to frames of the size asked for; damage ends as a `VideoError`.

JPEG is decoded by simplejpeg, which is faster than PyAV's decoder and strict: a truncated picture is an error,
where PyAV's decoder is content with a grey rest.
"""

import os
import stat
from collections.abc import Callable, Iterator

import av
import numpy as np
import simplejpeg

from hvt_jax.data import profiling, transforms
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_PIXELS, Reader, VideoInfo, faults_named

MAX_BYTES = 1 << 28  # of one picture
_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_EXIF, _PNG_EXIF, _HEADER_BYTES = b"Exif\0\0", b"eXIf", 1 << 16
_OPENED = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe must not keep us waiting for ever
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_JPEG_START, _JPEG_PART, _SCAN = b"\xff\xd8", b"\xff\xe1", b"\xff\xda\0"  # EXIF's part; a scan: the pixels
_MOST_PARTS = 1000  # of a JPEG
_ORIENTATION_TAG, _LONG, _MOST_TAGS = 0x112, 4, 1000  # LONG: a type of 4 bytes, in the place of the usual 2
# EXIF orientation -> quarter turns counter-clockwise and whether it is mirrored before, see `transforms.turn_upright`.
_UPRIGHT = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True)}
_UPRIGHT |= {5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}


@profiling.timed("decode")
def decode_image(content: bytes, is_strict: bool = True) -> np.ndarray:
    """Return a JPEG or PNG picture, upright as its EXIF data says, as uint8 [Y, X, 3] in RGB.

    Args:
      content: of the file.
      is_strict: whether bytes too many between two parts of a JPEG count as damage. They may be the trace of a flipped
        bit, but there are pictures in public data sets that have some and show no fault.

    Raises:
      VideoError: if it is damaged, too large, or neither of the two.
    """
    try:
        pixels = _decode_as_stored(content, is_strict)
        return transforms.turn_upright(pixels, *_UPRIGHT[_exif_orientation(content)])
    except (ValueError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(Problem.UNREADABLE, f"a picture cannot be decoded ({reason})") from error


def _decode_as_stored(content: bytes, is_strict: bool) -> np.ndarray:
    height, width, colours = _read_header(content)
    if colours in ("png", "CMYK", "YCCK"):
        return _decode_by_ffmpeg(content, "png" if colours == "png" else "mjpeg", height, width)
    try:
        return simplejpeg.decode_jpeg(content)
    except ValueError as error:
        if is_strict or "extraneous bytes" not in str(error):
            raise
        return _decode_by_ffmpeg(content, "mjpeg", height, width)


class StoredFrames(Reader):
    """Reads a video whose frames lie ready, each on its own; storages say how a few of them are fetched."""

    def __init__(self, info: VideoInfo, fetch: Callable[[np.ndarray], Iterator], timeout_seconds: float):
        """Read by `fetch`, which gives the frames at rising indices as JPEG or PNG bytes or as uint8 [Y, X, 3]."""
        super().__init__(timeout_seconds)
        self.info, self._fetch = info, fetch

    def close(self) -> None:
        """Let go of what is read from."""
        self._fetch = None

    def fetch(self, indices: np.ndarray) -> list[bytes | np.ndarray]:
        """Return the frames at rising `indices` as they are stored, as JPEG or PNG bytes or uint8 [Y, X, 3]."""
        with faults_named("cannot be read"):
            return list(self._fetch(np.asarray(indices, np.int64)))

    def _decode(self, wanted: np.ndarray, frames: np.ndarray) -> int:
        found, room = 0, _Room(self.info.height, self.info.width, *frames.shape[1:3], self.squeeze)
        with faults_named("cannot be read"):
            for found, content in enumerate(profiling.timed_items("read", lambda: self._fetch(wanted)), start=1):
                self._check_time()
                room.put(content, frames[found - 1])
        return found


class _Room:
    """Where the pictures of a clip are decoded: in the clip itself, or if they have another size, in one place."""

    def __init__(self, height: int, width: int, target_height: int, target_width: int, squeeze: bool):
        """Expect pictures of `height` x `width` pixels; others, and 0 for unknown ones, only take longer."""
        self._scratch = self._window = None
        self._squeeze, self._header = squeeze, b""
        if (height, width) == (target_height, target_width) or not 0 < height * width <= MAX_PIXELS:
            return
        self._scratch = np.empty((height, width, 3), np.uint8)
        box = transforms.cover_box(height, width, target_height, target_width, squeeze)
        if (box.resized_height, box.resized_width) == (height, width):
            rows, columns = slice(box.top, box.top + target_height), slice(box.left, box.left + target_width)
            self._window = self._scratch[rows, columns]

    def put(self, content: bytes | np.ndarray, frame: np.ndarray) -> None:
        """Put a JPEG or PNG picture, or pixels, uint8 [Y, X, 3], into `frame`, uint8 [height, width, 3].

        See `fit_pixels` for pictures of another size.

        Raises:
          VideoError: if it is damaged, too large, or neither of the two.
        """
        if isinstance(content, np.ndarray):
            _fit(frame, content, self._squeeze)
        elif not (self._is_upright(content) and _decode_in_place(content, self._place(frame))):
            _fit(frame, decode_image(content), self._squeeze)
        elif self._window is not None:
            frame[...] = self._window
        elif self._scratch is not None:
            _fit(frame, self._scratch, self._squeeze)

    def _place(self, frame: np.ndarray) -> np.ndarray:
        return frame if self._scratch is None else self._scratch

    def _is_upright(self, content: bytes) -> bool:
        # Pictures of a video mostly begin with the same bytes, so that only the first need be searched for EXIF data.
        if self._header and content.startswith(self._header):
            return True
        if _exif_orientation(content) != 1:
            return False
        scan = _find_scan(content)
        self._header = content[: scan + 5] if scan > 0 else b""
        return True


@profiling.timed("resize")
def _fit(frame: np.ndarray, pixels: np.ndarray, squeeze: bool) -> None:
    frame[...] = fit_pixels(pixels, *frame.shape[:2], squeeze)


@profiling.timed("decode")
def _decode_in_place(content: bytes, room: np.ndarray) -> bool:
    """Return whether `room` now holds a JPEG picture of just its size; a larger one is refused."""
    try:
        return simplejpeg.decode_jpeg(content, buffer=room).shape == room.shape
    except ValueError:  # another size, no JPEG, or damage: `decode_image` says which
        return False


def image_size(content: bytes) -> tuple[int, int]:
    """Return height and width in pixels of a picture once it is upright, without decoding it.

    Raises:
      VideoError: if it is neither a JPEG nor a PNG, or too large.
    """
    height, width, _ = _read_header(content)
    return (width, height) if _UPRIGHT[_exif_orientation(content)][0] % 2 else (height, width)


def _read_header(content: bytes) -> tuple[int, int, str]:
    """Return height and width in pixels as stored and the colour space of a picture, "png" for a PNG."""
    if len(content) > MAX_BYTES:
        raise VideoError(Problem.TOO_LARGE, f"a picture of {len(content)} bytes, more than {MAX_BYTES}")
    if content[:8] == _PNG_START and content[12:16] == b"IHDR" and len(content) >= 24:
        width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
        colours = "png"
    else:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError as error:
            raise VideoError(Problem.UNREADABLE, f"neither a whole JPEG nor a PNG ({error})") from error
    if not 0 < height * width <= MAX_PIXELS:
        raise VideoError(Problem.TOO_LARGE, f"a picture of {width}x{height} pixels, more than {MAX_PIXELS}")
    return height, width, colours


def _exif_orientation(content: bytes) -> int:
    """Return the number from 1 to 8 that a picture has for how it is held, 1 (upright) if it has none."""
    at = _find_png_exif(content) if content.startswith(_PNG_START) else _find_jpeg_exif(content)
    if at < 0:
        return 1
    tiff = content[at + len(_JPEG_EXIF) : at + _HEADER_BYTES]
    order = "little" if tiff.startswith(b"II") else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], order)

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * min(number(first, 2), _MOST_TAGS), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            orientation = number(entry + 8, 4 if number(entry + 2, 2) == _LONG else 2)
            return orientation if orientation in _UPRIGHT else 1
    return 1


def _find_jpeg_exif(content: bytes) -> int:
    """Return where the EXIF data of a JPEG begins, -1 if there is none before its pixels."""
    if (scan := _find_scan(content)) > 0:
        return content.find(_JPEG_EXIF, 0, scan)
    place = len(_JPEG_START)
    for _ in range(_MOST_PARTS):
        marker = content[place : place + 2]
        if len(marker) < 2 or marker[0] != 0xFF or marker == _SCAN[:2]:
            return -1
        if marker == _JPEG_PART and content.startswith(_JPEG_EXIF, place + 4):
            return place + 4
        is_filled_up = marker[1] == 0xFF
        place += 1 if is_filled_up else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return -1


def _find_scan(content: bytes) -> int:
    """Return where the pixels of a JPEG begin, -1 where that is not plain."""
    scan = content.find(_SCAN, 0, _HEADER_BYTES)
    # A scan says how long its header is, by its number of colours. Another one may come before: that of a thumbnail.
    is_scan = 0 <= scan < len(content) - 4 and content[scan + 3] == 6 + 2 * content[scan + 4]
    return scan if is_scan and content.find(_JPEG_START, len(_JPEG_START), scan) < 0 else -1


def _find_png_exif(content: bytes) -> int:
    """Return where the EXIF data of a PNG would begin if it were a JPEG's, -1 if there is none; it may come last."""
    place = len(_PNG_START)
    while place + 8 <= len(content):
        if content[place + 4 : place + 8] == _PNG_EXIF:
            return place + 8 - len(_JPEG_EXIF)
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return -1


def fit_pixels(pixels: np.ndarray, height: int, width: int, squeeze: bool = False) -> np.ndarray:
    """Return a frame, uint8 [Y, X, 3], covering the target and cut in its centre, as `transforms.fit_frame` does."""
    box = transforms.cover_box(*pixels.shape[:2], height, width, squeeze)
    if (box.resized_height, box.resized_width) == pixels.shape[:2]:
        return pixels[box.top : box.top + height, box.left : box.left + width]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return transforms.fit_frame(frame, height, width, squeeze=squeeze)


def read_image(path: str | os.PathLike, follow_links: bool = False) -> bytes:
    """Return the bytes of a picture; a pipe or a device in its place is refused, and by default a link.

    Raises:
      VideoError: if there is no such file or it is empty, too large or no regular file.
    """
    try:
        handle = os.open(path, _OPENED if follow_links else _OPENED | _NO_LINK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if not follow_links and os.path.islink(path):
            reason = "it is a link, which data.follow_links = True follows"
        raise VideoError(Problem.MISSING, f"{os.path.basename(path)}: cannot be opened ({reason})") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(Problem.MISSING, f"{os.path.basename(path)}: not a file")
        if not status.st_size:
            raise VideoError(Problem.EMPTY, f"{os.path.basename(path)}: has 0 bytes")
        if status.st_size > MAX_BYTES:
            raise VideoError(Problem.TOO_LARGE, f"{os.path.basename(path)}: {status.st_size} bytes")
        return _read_all(handle, status.st_size)
    finally:
        os.close(handle)


def read_picture(path: str | os.PathLike) -> av.VideoFrame:
    """Return a picture, which may be reached through links, as an upright frame of pixels.

    Raises:
      VideoError: if it is damaged or too large.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(decode_image(content, is_strict=False)), format="rgb24")


def _read_all(handle: int, size: int) -> bytes:
    content = os.read(handle, size + 1)  # one call, and it shows a file that has grown
    while len(content) < size and (more := os.read(handle, size + 1 - len(content))):
        content += more
    return content


def _decode_by_ffmpeg(content: bytes, codec: str, height: int, width: int) -> np.ndarray:
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    frames = context.decode(av.Packet(content)) + context.decode(None)
    if len(frames) != 1 or (frames[0].height, frames[0].width) != (height, width):
        raise VideoError(Problem.UNREADABLE, "a picture cannot be decoded (cut short)")
    return frames[0].reformat(format="rgb24", threads=1).to_ndarray()
