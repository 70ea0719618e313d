"""Clips per second of every storage beside the bare decoding loop of the same bytes, in one interleaved run.

    python -m benchmarks.storages --root=FOLDER_OF_VIDEOS

One thread, warm file cache: 16 frames of stride 4 at a random start, 128 x 128 pixels. "Bare" is what the decoder needs
for those frames alone, from bytes in memory: a list of JPEG files, or an .mp4 file by PyAV with a seek. Both sides take
turns, clip by clip; the ratio is the one to quote. The loader's own figures are those of the command `bench_data`.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time

import numpy as np
import simplejpeg

from configs import default
from hvt_jax import settings as settings_lib
from hvt_jax.data import decode, sampling, storages, transforms
from hvt_jax.data.catalog import folder
from hvt_jax.data.dataset import Dataset
from hvt_jax.tools import encode

SHORTEST_SIDE, QUALITY, GROUP, CRF = 128, 90, 12, 20


def encode_all(dataset: Dataset, as_mp4: bool) -> list[storages.EncodedVideo]:
    """Return all videos at the training size."""
    encoded = []
    for video in dataset.videos:
        with decode.VideoReader(dataset.root / video.path, 60.0) as reader:
            info = reader.info
            height, width = transforms.storage_size(0, 0, SHORTEST_SIDE, info.height, info.width)
            height, width = height // 2 * 2, width // 2 * 2
            frames = reader.read(np.arange(info.num_frames), height, width)
        head = storages.EncodedVideo(video.path, len(frames), info.fps, height, width)
        if as_mp4:
            encoded.append(dataclasses.replace(head, mp4=encode.encode_mp4(frames, info.fps, GROUP, CRF)))
        else:
            encoded.append(dataclasses.replace(head, jpegs=encode.encode_jpegs(frames, QUALITY)))
    return encoded


def bare_read(video: storages.EncodedVideo, indices: np.ndarray, size: int) -> np.ndarray:
    """Return a clip by the decoder alone."""
    if video.mp4:
        with decode.VideoReader(video.mp4, 30.0) as reader:
            return reader.read(indices, size, size)
    top, left = (video.height - size) // 2, (video.width - size) // 2
    frames = np.empty((len(indices), size, size, 3), np.uint8)
    for position, index in enumerate(indices):
        frames[position] = simplejpeg.decode_jpeg(video.jpegs[index])[top : top + size, left : left + size]
    return frames


def measure(root: pathlib.Path, clips: int, seed: int) -> list[str]:
    """Return the rows of the table."""
    data = settings_lib.read_settings(default.get_config()).data
    data = dataclasses.replace(data, root=str(root), num_frames=16, frame_stride=4)
    dataset = folder.load(data, "train")
    rows = []
    jpegs, mp4s = encode_all(dataset, as_mp4=False), encode_all(dataset, as_mp4=True)
    kinds = {"raw": None, "frames": jpegs, "hdf5": jpegs, "array_record": jpegs, "array_record mp4": mp4s}
    for kind, encoded in kinds.items():
        name = kind.split()[0]
        with tempfile.TemporaryDirectory() as place:
            if encoded:
                shard = storages.shard_path(name, pathlib.Path(place), 0, 1)
                storages.write_shard(name, shard, encoded, sync=False)
                size = sum(path.stat().st_size for path in pathlib.Path(place).rglob("*") if path.is_file())
            else:
                size = sum((root / video.path).stat().st_size for video in dataset.videos)
            own = dataclasses.replace(data, storage=name, storage_root=place if encoded else "")
            ours, bare = _alternate(storages.open_storage(own, dataset), dataset, encoded, clips, seed)
        bare_column, ratio = (f"{1 / bare:.0f}", f"{bare / ours:.2f}") if bare else ("-", "-")
        rows.append(f"| {kind} | {1 / ours:.0f} | {bare_column} | {ratio} | {size / 1e6:.1f} |")
    return rows


def _alternate(storage, dataset: Dataset, encoded, clips: int, seed: int) -> tuple[float, float]:
    """Return the median seconds of a clip, through the storage and bare (0 where there is no bare side)."""
    rng, seconds = np.random.default_rng(seed), ([], [])
    for turn in range(clips + 5):
        number = int(rng.integers(len(dataset)))
        video = dataset.videos[number]

        def ours(video=video, turn=turn):
            with storage.open_video(video) as reader:
                count = reader.info.num_frames
                start = int(np.random.default_rng((seed, turn)).integers(max(1, count - 60)))
                return reader.read(sampling.pick_frames(start, 16, 4, count, "loop")[0], 128, 128)

        def bare(video=video, number=number, turn=turn):
            if encoded is None:
                with decode.VideoReader(dataset.root / video.path, 60.0) as reader:
                    count = reader.info.num_frames
            else:
                count = encoded[number].num_frames
            start = int(np.random.default_rng((seed, turn)).integers(max(1, count - 60)))
            return bare_read(encoded[number], sampling.pick_frames(start, 16, 4, count, "loop")[0], 128)

        pair = [(ours, seconds[0])] + ([(bare, seconds[1])] if encoded else [])
        for side, times in pair if turn % 2 else pair[::-1]:
            began = time.perf_counter()
            side()
            times.append(time.perf_counter() - began)
    return tuple(statistics.median(times[5:]) if times else 0.0 for times in seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder of videos, read as data.name = folder")
    parser.add_argument("--clips", type=int, default=300, help="clips a storage")
    parser.add_argument("--seed", type=int, default=0, help="of videos and starts")
    arguments = parser.parse_args()
    print("| storage | clips/s, one thread | bare decoding | ratio | MB |\n|---|---|---|---|---|")
    print("\n".join(measure(arguments.root, arguments.clips, arguments.seed)))


if __name__ == "__main__":
    main()
