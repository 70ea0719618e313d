#!/usr/bin/env bash
# PyAV 18.1: a transport stream of two or three small frames cannot be opened without its format's name.
#
# `av.open` ends with EOFError, as if the file were cut short; with `format="mpegts"` all frames are read. One frame
# and four work.
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


def count(frames, name):
    try:
        file = encode("libx264", "mpegts", lambda number: np.full((64, 64, 3), 10 * number, np.uint8), frames)
        with av.open(file, format=name) as container:
            return str(len(list(container.decode(video=0))))
    except EOFError:
        return "EOFError"


guessed, named = ([count(frames, name) for frames in (1, 2, 3, 4)] for name in (None, "mpegts"))
print(f"PyAV {av.__version__}: of 1, 2, 3, 4 frames are read: {', '.join(guessed)}; with the format named: "
      f"{', '.join(named)}")
raise SystemExit(not (guessed == ["1", "EOFError", "EOFError", "4"] and named == ["1", "2", "3", "4"]))
PYTHON
