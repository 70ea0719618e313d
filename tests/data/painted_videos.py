"""Videos whose frames carry their number as a picture, so that a test can read which frames it was given."""

import io
from fractions import Fraction

import av
import numpy as np

_BITS = 8


def paint_number(number: int) -> np.ndarray:
    """Return uint8 [64, 64, 3]: 8 bits of `number` as black and white blocks of 16x32 pixels."""
    bits = (number >> np.arange(_BITS)) & 1
    return np.repeat(np.kron(bits.reshape(2, 4), np.ones((32, 16))) * 255, 3).reshape(64, 64, 3).astype(np.uint8)


def read_numbers(frames: np.ndarray) -> list[int]:
    """Return the numbers painted on frames, uint8 [T, 64, 64, 3]."""
    middles = frames[:, 16::32, 8::16].mean(-1).reshape(len(frames), _BITS)
    return ((middles > 127) @ (1 << np.arange(_BITS))).tolist()


def write_video(path, frames, container, codec, options=None, times_ms=None):
    """Encode uint8 [T, Y, X, 3] into a file, at 25 frames per second or with explicit times in milliseconds."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = int(times_ms[number]), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    path.write_bytes(buffer.getvalue())
    return path
