#!/usr/bin/env bash
# FFmpeg, by PyAV: a video with a palette is black after its packets were listed and it was rewound.
#
# QuickTime Animation (.mov) and raw video (.avi) with a palette: it comes as side data of the first packet that is
# read, once. Who lists the packets without decoding them, seeks to the start and decodes gets black, without an error.
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


def first_mean(lists):
    """Return the mean of the first frame, with `lists` after all packets were listed."""
    grey = np.full((64, 64, 3), 120, np.uint8)
    with av.open(encode("qtrle", "mov", lambda number: grey, 6, pix_fmt="gray")) as container:
        if lists:
            for _ in container.demux(video=0):
                pass
            container.seek(0)
        return next(container.decode(video=0)).to_ndarray(format="rgb24").mean()


at_once, later = first_mean(False), first_mean(True)
print(f"PyAV {av.__version__}: grey of level 120 in QuickTime Animation: {at_once:.0f} at once, "
      f"{later:.0f} after listing and a seek")
raise SystemExit(not (at_once == 120 and later == 0))
PYTHON
