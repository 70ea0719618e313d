"""From frames to the bytes that are stored; equal frames give equal bytes."""

import fractions
import io
from collections.abc import Iterable

import av
import numpy as np
import simplejpeg

# No B-frames, no arithmetic coding, no deblocking: clips decode faster. Keyframes where the group says so and
# not at scene cuts: the cost of seeks would be uneven. Without cpu-independent 4 of 300 encodes of equal frames,
# in parallel processes on one machine, gave other bytes (PyAV 18.1; the cause is not known); with it none of 2,300 did.
_H264 = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "bf": "0",
    "sc_threshold": "0",
    "flags": "+bitexact+cgop",
    "x264-params": "cpu-independent=1",
}
LARGEST_RATE = 1000  # frames per second
# Lanczos, accurate rounding, full chroma input: rounded as usual, frames would be one level of 255 darker. Numbers,
# because PyAV 17 has no names for the last two.
_EXACT = 0x200 | 0x40000 | 0x4000


def encode_jpegs(frames: Iterable[np.ndarray], quality: int) -> list[bytes]:
    """Return each frame, uint8 [Y, X, 3] in RGB, as a JPEG file; colours at half the resolution, as in video.

    Args:
      frames: any number of them, taken one at a time.
      quality: 1-100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"a JPEG quality of {quality}, but must be from 1 to 100")
    return [
        simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorsubsampling="420") for frame in frames
    ]


def encode_mp4(frames: Iterable[np.ndarray], fps: float, group: int, crf: int) -> bytes:
    """Return frames, uint8 [Y, X, 3] in RGB, as one H.264 .mp4 file whose keyframes stand `group` frames apart.

    Args:
      frames: one or more, taken one at a time; Y and X must be even.
      fps: frames per second; 0 (unknown) is written as 25.
      group: frames from a keyframe to the next; a small one makes random reads cheap and the file larger.
      crf: x264's constant rate factor, 0 (lossless but for the colours) to 51; about 18 cannot be told from the source.

    Raises:
      ValueError: if a size is odd, there is no frame, or a number is out of range.
    """
    writer = Mp4Writer(fps, group, crf)
    for frame in frames:
        writer.add(frame)
    return writer.finish()


class Mp4Writer:
    """Makes one H.264 .mp4 file of frames that come one at a time; see `encode_mp4`."""

    def __init__(self, fps: float, group: int, crf: int):
        """Begin a file.

        Raises:
          ValueError: if a number is out of range.
        """
        if group < 1 or not 0 <= crf <= 51 or not 0 <= fps <= LARGEST_RATE:
            raise ValueError(
                f"group = {group}, crf = {crf}, fps = {fps}, but must be at least 1, 0-51 and 0-{LARGEST_RATE}"
            )
        self._rate = fractions.Fraction(fps or 25).limit_denominator(1001)
        self._options = {**_H264, "g": str(group), "crf": str(crf)}
        self._buffer, self._stream, self._number = io.BytesIO(), None, 0
        self._container = av.open(self._buffer, "w", format="mp4", container_options={"fflags": "+bitexact"})

    def add(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 [Y, X, 3] in RGB.

        Raises:
          ValueError: if Y or X is odd.
        """
        if self._stream is None:
            self._stream = _add_stream(self._container, self._rate, frame.shape, self._options)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", interpolation=_EXACT, threads=1)
        picture.pts, picture.time_base = self._number, 1 / self._rate
        self._number += 1
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> bytes:
        """Return the file.

        Raises:
          ValueError: if there is no frame.
        """
        if self._stream is None:
            raise ValueError("a video needs at least one frame")
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()


def _add_stream(container, rate: fractions.Fraction, shape: tuple[int, ...], options: dict[str, str]) -> av.VideoStream:
    if shape[0] % 2 or shape[1] % 2:
        raise ValueError(f"H.264 cannot hold frames of {shape[0]}x{shape[1]} pixels; make both sides even")
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
    stream.codec_context.thread_count = 1  # more threads may give other bytes
    return stream
