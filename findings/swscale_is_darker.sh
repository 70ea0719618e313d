#!/usr/bin/env bash
# FFmpeg's scaler, by PyAV: frames from yuv420p to rgb24 come out 1 to 2 levels too dark.
#
# So do all that decode by `frame.to_ndarray(format="rgb24")` or `frame.reformat(...)` with the usual flags. Accurate
# rounding (0x40000) and full chroma (0x2000) among the interpolation flags bring it to 0.1; they cost time.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np
from av.video.reformatter import VideoReformatter

BILINEAR, EXACT = 0x2, 0x2 | 0x40000 | 0x2000
rows, columns = np.mgrid[:240, :320]
pixels = np.stack([60 + columns * 120 // 320, 90 + rows * 100 // 240, 200 - columns * 100 // 320], -1).astype(np.uint8)
frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", interpolation=EXACT)


def shift(width, height, flags):
    """Return how far the mean of each channel is from what it was."""
    scaled = VideoReformatter().reformat(frame, width, height, "rgb24", interpolation=flags).to_ndarray()
    return (scaled.mean((0, 1)) - pixels.mean((0, 1))).round(1)


print(f"PyAV {av.__version__}: shift of the means of red, green, blue after yuv420p -> rgb24")
worst, exact = 0.0, 0.0
for size in ((320, 240), (160, 120), (170, 128), (128, 96)):
    usual, accurate = shift(*size, BILINEAR), shift(*size, EXACT)
    worst, exact = min(worst, usual.min()), max(exact, abs(accurate).max())
    print(f"  320x240 to {size[0]}x{size[1]}: {usual} by default, {accurate} with both flags")
raise SystemExit(not (worst <= -1.2 and exact <= 0.3))
PYTHON
