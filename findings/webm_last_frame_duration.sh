#!/usr/bin/env bash
# WebM, by PyAV: how long the last frame is shown is lost in a copy, and only the length of the file tells it.
#
# FFmpeg's muxer counts the duration of the last packet into the length of the file and does not store it with the
# packet. Who adds up packets finds the video shorter than the file says, and may take it for truncated.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import av
import numpy as np


def encode(codec, container, paint, count, options=None, pix_fmt="yuv420p"):
    """Return a video of `count` frames of 64x64 pixels, 25 a second, in memory."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    buffer.seek(0)
    return buffer


first, copy = encode("libvpx", "webm", lambda number: np.full((64, 64, 3), 5 * number, np.uint8), 10), io.BytesIO()
with av.open(first) as source, av.open(copy, "w", format="webm") as output:
    stream = output.add_stream_from_template(source.streams.video[0])
    packets = [packet for packet in source.demux(video=0) if packet.size]
    for packet in packets:
        packet.stream = stream
        packet.duration = 2000 if packet is packets[-1] else packet.duration  # milliseconds
        output.mux(packet)
copy.seek(0)
with av.open(copy) as container:
    *_, last = (packet for packet in container.demux(video=0) if packet.size)
    seconds = container.duration / 1e6
print(f"PyAV {av.__version__}: a last frame shown for 2 s from 0.36 s on: the file lasts {seconds} s, the packet "
      f"at {float(last.pts * last.time_base)} s lasts {float(last.duration * last.time_base)} s")
raise SystemExit(not (seconds > 2.3 and last.duration == 0))
PYTHON
