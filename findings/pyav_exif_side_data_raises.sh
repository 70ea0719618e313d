#!/usr/bin/env bash
# PyAV 18.1: `frame.side_data` of a JPEG picture with EXIF data raises a ValueError.
#
# FFmpeg 8 gives the EXIF data as side data of a kind that PyAV has no name for, and then none can be read, neither
# that one nor the display matrix, which the same frame has. `frame.rotation` still works; mirrors are lost.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
from fractions import Fraction

import av
import numpy as np

encoder = av.CodecContext.create("mjpeg", "w")
encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuvj420p", Fraction(1, 25)
frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
jpeg = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
tiff = struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x112, 3, 1, 6, 0, 0)  # one tag: orientation 6
jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + jpeg[2:]
with av.open(io.BytesIO(jpeg), format="jpeg_pipe") as container:
    frame = next(container.decode(video=0))
try:
    seen = f"side_data has {len(frame.side_data)} entries"
except ValueError as error:
    seen = f"side_data raises ValueError: {error}"
print(f"PyAV {av.__version__}: JPEG with EXIF orientation 6: {seen}; rotation is {frame.rotation}")
raise SystemExit("is not a valid Type" not in seen)
PYTHON
