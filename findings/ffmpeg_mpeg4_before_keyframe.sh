#!/usr/bin/env bash
# FFmpeg's MPEG-4 decoder, by PyAV: frames before the first keyframe are made from grey, and nobody says so.
#
# A file that was cut in the middle of a group (a recorder that joins a stream, a copy without encoding) begins with
# frames whose reference is missing. They are decoded from grey, without an error, `is_corrupt` is False.
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


pictures = np.random.default_rng(0).integers(0, 255, (4, 4, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
options = {"g": "25", "b": "2M", "sc_threshold": "1000000000"}
whole = encode("mpeg4", "matroska", lambda number: np.roll(pictures, number, 1), 50, options)
cut = io.BytesIO()
with av.open(whole) as source, av.open(cut, "w", format="matroska") as output:
    stream = output.add_stream_from_template(source.streams.video[0])
    for number, packet in enumerate(source.demux(video=0)):
        if packet.size and number >= 17:
            packet.stream = stream
            output.mux(packet)
for file in (whole, cut):
    file.seek(0)
with av.open(whole) as source:
    right = [frame.to_ndarray(format="rgb24").astype(int) for frame in source.decode(video=0)][17:]
with av.open(cut) as source:
    frames = list(source.decode(video=0))
errors = [np.abs(frame.to_ndarray(format="rgb24") - good).mean() for frame, good in zip(frames, right)]
before = next(number for number, frame in enumerate(frames) if frame.key_frame)
said = sum(frame.is_corrupt for frame in frames)
print(f"PyAV {av.__version__}: {len(frames)} frames from 33 packets, number {before} is a keyframe; before it they "
      f"are {np.mean(errors[:before]):.0f} levels off on average, from there on {np.mean(errors[before:]):.0f}; "
      f"{said} of them are called corrupt, no error")
raise SystemExit(not (len(frames) == 33 and before == 8 and said == 0 and np.mean(errors[:before]) > 20))
PYTHON
