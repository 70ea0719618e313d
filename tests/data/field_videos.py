"""H.264 video stored in fields, as interlaced cameras record it: each half of a frame is a picture of its own.

No encoder at hand writes it, so it is put together here: Main profile, CAVLC, every macroblock stored as it is.
"""

import io
import pathlib
from fractions import Fraction

import av
import numpy as np

from tests.data import painted_videos

_RAW_MACROBLOCK = 25  # I_PCM
_BLOCKS = 4  # in a row, and rows of them in a frame


def _exp_golomb(value: int) -> str:
    return f"{value + 1:0{2 * (value + 1).bit_length() - 1}b}"


def _unit(head: int, bits: str) -> bytes:
    """Return a NAL unit of `bits` and what ends them, protected so that it holds no start code."""
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    unit, zeros = bytearray(b"\0\0\0\1" + bytes([head])), 0
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros >= 2 and byte <= 3:
            unit.append(3)
            zeros = 0
        unit.append(byte)
        zeros = 0 if byte else zeros + 1
    return bytes(unit)


def _parameters() -> bytes:
    """Return the parameter sets: frames of 64x64 pixels in fields, 50 a second."""
    code = _exp_golomb
    sizes = code(_BLOCKS - 1) + code(_BLOCKS // 2 - 1)
    sequence = f"{77:08b}{0:08b}{30:08b}" + code(0) + code(0) + code(2) + code(1) + "0" + sizes + "0010"
    sequence += "1" + "00001" + f"{1:032b}{50:032b}" + "1" + "0000"
    picture = code(0) * 2 + "00" + code(0) * 3 + "000" + code(0) * 3 + "100"
    return _unit(0x67, sequence) + _unit(0x68, picture)


def _field(pixels: np.ndarray, number: int, bottom: int, is_first: bool) -> bytes:
    """Return every second row of uint8 [64, 64, 3] as a picture; `number` is that of the frame since the keyframe."""
    code, luma = _exp_golomb, np.clip(pixels[bottom::2, :, 0], 1, 254)
    bits = code(0) + code(7) + code(0) + f"{number % 16:04b}" + "1" + str(bottom)
    bits += (code(0) + "00" if is_first else "0") + code(0) + code(1)
    for row in range(0, len(luma), 16):
        for column in range(0, luma.shape[1], 16):
            bits += code(_RAW_MACROBLOCK)
            bits += "0" * (-len(bits) % 8)
            stored = luma[row : row + 16, column : column + 16].tobytes() + b"\x80" * 128
            bits += "".join(f"{byte:08b}" for byte in stored)
    return _unit(0x65 if is_first else 0x61, bits)


def write(path: pathlib.Path, container: str, count: int) -> pathlib.Path:
    """Write `count` frames that show their numbers, one field a packet and a keyframe every 12."""
    packets = []
    for number in range(count):
        pixels, since = painted_videos.paint_number(number), number % 12
        first = (_parameters() if not since else b"") + _field(pixels, since, 0, not since)
        packets += [(first, not since), (_field(pixels, since, 1, False), False)]
    with av.open(io.BytesIO(b"".join(body for body, _ in packets[:4])), format="h264") as source:
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for when, (body, is_key) in enumerate(packets):
                packet = av.Packet(body)
                packet.pts, packet.dts, packet.time_base = when, when, Fraction(1, 50)
                packet.stream, packet.is_keyframe = stream, is_key
                output.mux(packet)
    return path
