#!/usr/bin/env bash
# PyAV 18.1: asking a frame for `side_data` keeps its pixels until garbage is collected.
#
# The frame and its side data hold each other. In a loop over a video, `frame.side_data` (the display matrix of phones
# is there) keeps every frame that was decoded; without it each is freed at once.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import gc
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


def alive_after_decoding(asks):
    with av.open(encode("libx264", "mp4", lambda number: np.full((64, 64, 3), 5 * number, np.uint8), 40)) as container:
        for frame in container.decode(video=0):
            if asks:
                len(frame.side_data)
    del frame
    return sum(isinstance(found, av.VideoFrame) for found in gc.get_objects())


gc.collect()
gc.disable()
without, asked = alive_after_decoding(False), alive_after_decoding(True)
gc.collect()
left = sum(isinstance(found, av.VideoFrame) for found in gc.get_objects())
print(f"PyAV {av.__version__}: of 40 decoded frames {without} are alive, {asked} after asking each for its side data, "
      f"{left} after gc.collect()")
raise SystemExit((without, asked, left) != (0, 40, 0))
PYTHON
