"""Extraction beside what bounds it, and its memory on long videos.

    python -m benchmarks.extraction --part=speed
    python -m benchmarks.extraction --part=memory --minutes=3,30

speed: windows a second of the compiled forward pass alone (on windows that lie ready), of decoding alone, and of
`extract` from files to the features, on a small model, where decoding takes longer, and on one with ViT-S frames, where
the forward pass does. Extraction is timed between its first and its last batch, the forward pass before and after it.
Where both share the cores of a CPU the bound is their sum, else the slower of the two. On a machine that does other
things, too, look at the second line, of the processor seconds that a window takes.
memory: peak memory of a process that extracts a video of each length, 96x64 pixels at 25 frames a second.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import av
import jax
import numpy as np

from configs import default
from hvt_jax.data import video_windows
from hvt_jax.data.dataset import Dataset
from hvt_jax.data.video_windows import Step
from hvt_jax.engine import sharding, steps
from hvt_jax.run.trained import Trained
from hvt_jax.settings import read_settings
from hvt_jax.tools import extraction

FPS, SIZE = 25, (64, 96)
MODELS = {  # fields over configs/default.py, videos of how many seconds, batch
    "small": ({"data.num_frames": 8, "data.frame_stride": 4}, (8, 120), 32),
    "ViT-S frames": (
        {
            "data.num_frames": 8,
            "data.frame_stride": 4,
            "model.frame.width": 384,
            "model.frame.depth": 12,
            "model.frame.num_heads": 6,
            "model.frame.head_width": 64,
            "model.frame.mlp_width": 1536,
        },
        (2, 40),
        8,
    ),
}


def main() -> int:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["speed", "memory", "one"], default="speed")
    parser.add_argument("--minutes", default="3,30", help="memory: lengths of the videos")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # one: of one video, in a process of its own
    asked = parser.parse_args()
    if asked.part == "one":
        fields, _, batch = MODELS["small"]
        found, _ = _extract(_model(fields), pathlib.Path(asked.folder), batch)
        print(found.windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return 0
    print(f"{jax.devices()[0].device_kind}, {jax.device_count()} device(s), jax {jax.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        if asked.part == "speed":
            _speed(pathlib.Path(folder))
        else:
            _memory(pathlib.Path(folder), [float(minutes) for minutes in asked.minutes.split(",")])
    return 0


def _speed(folder: pathlib.Path) -> None:
    for name, (fields, (videos, seconds), batch) in MODELS.items():
        here = folder / name
        for number in range(videos):
            _write_video(here / f"{number}.mp4", seconds, seed=number)
        model = _model(fields)
        before, decoding = _forward(model, batch), _decoding(model, here, batch)
        _, extracted = _extract(model, here, batch)
        forward = (before + _forward(model, batch)) / 2
        for place, clock in enumerate(_Clock.NAMES):
            one, other, both = forward[place], decoding[place], extracted[place]
            print(
                f"{name}: ms a window, {clock}: forward pass {1000 * one:.2f}, decoding {1000 * other:.2f}, "
                f"extract {1000 * both:.2f}: speed {max(one, other) / both:.3f} of the slower one, "
                f"{(one + other) / both:.3f} of both in turn",
                flush=True,
            )


class _Clock:
    """Seconds that have passed, and processor seconds of this process."""

    NAMES = ("time", "processor")

    def __init__(self):
        self._began = self._now()

    def passed(self) -> np.ndarray:
        return self._now() - self._began

    def _now(self) -> np.ndarray:
        return np.array([time.monotonic(), time.process_time()])


def _memory(folder: pathlib.Path, minutes: list[float]) -> None:
    for length in minutes:
        here = folder / f"{length:g}"
        _write_video(here / "video.mp4", 60 * length, seed=0)
        command = [sys.executable, "-m", "benchmarks.extraction", "--part=one", f"--folder={here}"]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        windows, mebibytes = done.stdout.split()
        print(
            f"{length:g} minutes: {windows} windows, peak {mebibytes} MiB, {time.monotonic() - began:.0f} s", flush=True
        )


def _model(fields: dict) -> Trained:
    """Return an untrained model: its speed is that of a trained one."""
    config = default.get_config().copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    definition = steps.define(read_settings(config))
    params, stats = jax.jit(lambda: steps.initial_variables(definition, 0))()
    whole = sharding.replicated(sharding.make_mesh(definition.settings.train))
    return Trained("untrained", 0, definition.settings, definition, *jax.device_put((params, stats), whole))


def _forward(model: Trained, batch: int) -> np.ndarray:
    """Return the seconds of a window."""
    data, encode = model.settings.data, model.compile()
    shape = (batch, data.num_frames, data.height, data.width, 3)
    video = {"video": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    jax.block_until_ready(encode(video))
    clock, calls = _Clock(), 0
    while calls < 3 or clock.passed()[0] < 5:
        jax.block_until_ready(encode(video))
        calls += 1
    return clock.passed() / (calls * batch)


def _decoding(model: Trained, folder: pathlib.Path, batch: int) -> np.ndarray:
    """Return the seconds of a window."""
    dataset, clock = _videos(model, folder), _Clock()
    windows = sum(
        len(piece.pixels) for piece in video_windows.read_windows(dataset, model.settings.data, Step(), most=batch)
    )
    return clock.passed() / windows


def _extract(model: Trained, folder: pathlib.Path, batch: int) -> tuple[extraction.Extracted, np.ndarray]:
    """Return what was extracted, and the seconds of a window between the first batch and the last."""
    seen, clock = [], _Clock()
    found = extraction.extract(
        model,
        _videos(model, folder),
        str(folder / "features.npz"),
        levels=model.levels,
        step=Step(),
        batch_size=batch,
        on_progress=lambda _, windows: seen.append((clock.passed(), windows)),
    )
    first, last = next(entry for entry in seen if entry[1]), seen[-1]
    return found, (last[0] - first[0]) / max(last[1] - first[1], 1)


def _videos(model: Trained, folder: pathlib.Path) -> Dataset:
    return video_windows.find_videos(str(folder), model.settings.data)


def _write_video(path: pathlib.Path, seconds: float, seed: int) -> None:
    """Write a video of a bright square that moves over noise, with a keyframe every 50 frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(0, 100, (*SIZE, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", 50
        for number in range(round(seconds * FPS)):
            picture = ground.copy()
            picture[20:40, number % 80 : number % 80 + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
