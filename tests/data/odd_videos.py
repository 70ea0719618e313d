"""Valid videos that are not plain: cut without encoding again, hidden and repeated pictures, edit lists, mirrors.

Frame i shows the number i, see `painted_videos`.
"""

import io
import pathlib
import struct
from collections.abc import Callable

import av
import numpy as np

from tests.data import painted_videos

RATE = 25
_OPEN_H264 = {"g": "27", "bf": "3", "flags": "-cgop", "x264-params": "open-gop=1:scenecut=0:b-adapt=0:repeat-headers=1"}
_OPEN_HEVC = "keyint=27:min-keyint=27:open-gop=1:bframes=3:b-adapt=0:scenecut=0:repeat-headers=1:log-level=none:pools=1"
CODECS = {
    "h264": ("libx264", _OPEN_H264),
    "h264_refresh": ("libx264", {"bf": "0", "x264-params": "intra-refresh=1:keyint=25:scenecut=0:repeat-headers=1"}),
    "hevc": ("libx265", {"x265-params": _OPEN_HEVC}),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2", "b": "2M", "sc_threshold": "1000000000"}),
    "mpeg4": ("mpeg4", {"g": "12", "b": "2M", "sc_threshold": "1000000000"}),
    "mpeg4_b": ("mpeg4", {"g": "12", "bf": "2", "b": "2M", "sc_threshold": "1000000000"}),
    "vp8": ("libvpx", {"g": "25", "b": "1M"}),
    "vp9": ("libvpx-vp9", {"g": "25", "b": "1M", "cpu-used": "8"}),
}


def encode(codec: str, count: int = 60, container: str = "matroska", pixels=painted_videos.paint_number) -> bytes:
    """Return a video of `count` frames in memory."""
    name, options = CODECS[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(name, rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(number), format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def copy(
    content: bytes,
    path: pathlib.Path,
    container: str,
    *,
    skip: int = 0,
    hold: int = 0,
    change: Callable[[int, bytearray], bytes] = lambda place, packet: packet,
) -> pathlib.Path:
    """Copy packets from number `skip` on, the last one lasting `hold`; `change` gets place and bytes of each."""
    with av.open(io.BytesIO(content)) as source, av.open(str(path), "w", format=container) as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        base = packets[skip].dts or 0
        for place, packet in enumerate(packets[skip:], start=skip):
            fresh = av.Packet(bytes(change(place, bytearray(bytes(packet)))))
            decoded = packet.dts if packet.dts is None else packet.dts - base
            fresh.pts, fresh.dts, fresh.time_base = packet.pts - base, decoded, packet.time_base
            fresh.stream, fresh.is_keyframe = target, packet.is_keyframe
            fresh.duration = hold if place == len(packets) - 1 else 0
            output.mux(fresh)
    return path


def keyframes(content: bytes) -> list[int]:
    """Return the places of the packets at which decoding may begin."""
    with av.open(io.BytesIO(content)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
    return [place for place, packet in enumerate(packets) if packet.is_keyframe]


def not_coded(packet: bytearray) -> bytes:
    """Return an MPEG-4 packet that says that nothing has changed, made from one that says what has."""
    at = packet.find(b"\0\0\1\xb6")
    bits = "".join(f"{byte:08b}" for byte in packet[at + 4 : at + 12])
    coded = bits.index("0", 2) + 7  # end of modulo_time_base, a marker, 5 bits of time at 25 ticks a second
    head = bits[: coded + 1] + "00"
    head += "1" * (-len(head) % 8)
    return bytes(packet[: at + 4]) + bytes(int(head[bit : bit + 8], 2) for bit in range(0, len(head), 8))


def with_edits(source: bytes, path: pathlib.Path, edits: list[tuple[int | None, int]]) -> pathlib.Path:
    """Write an .mp4 file, whose index stands at its end, with an edit list of (first frame or None, frames)."""
    rows = [struct.pack(">IiI", 1000 * n // RATE, -1 if a is None else 12800 * a // RATE, 1 << 16) for a, n in edits]
    listed = struct.pack(">II", 0, len(rows)) + b"".join(rows)
    path.write_bytes(_replace(source, [b"moov", b"trak", b"edts", b"elst"], listed))
    return path


def with_matrix(source: bytes, path: pathlib.Path, a: int, b: int, c: int, d: int) -> pathlib.Path:
    """Write an .mp4 file with a display matrix."""
    place = source.index(b"tkhd") + 44
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(source[:place] + matrix + source[place + 36 :])
    return path


def _replace(boxes: bytes, path: list[bytes], content: bytes) -> bytes:
    found, place = b"", 0
    while place < len(boxes):
        size, kind = struct.unpack(">I4s", boxes[place : place + 8])
        body = boxes[place + 8 : place + size]
        if kind == path[0]:
            body = content if len(path) == 1 else _replace(body, path[1:], content)
        found += struct.pack(">I4s", 8 + len(body), kind) + body
        place += size
    return found


def quarters() -> np.ndarray:
    """Return uint8 [64, 64, 3]: red and green above blue and white."""
    pixels = np.full((64, 64, 3), 230, np.uint8)
    pixels[:32, :32], pixels[:32, 32:], pixels[32:, :32] = (220, 20, 20), (20, 220, 20), (20, 20, 220)
    return pixels


def corners(pixels: np.ndarray) -> str:
    """Return the colours of the quarters of a picture, "RGBW" as `quarters` makes them."""
    height, width = pixels.shape[:2]
    points = [pixels[height * y // 4, width * x // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    return "".join("W" if point.min() > 150 else "RGB"[point.argmax()] for point in points)
