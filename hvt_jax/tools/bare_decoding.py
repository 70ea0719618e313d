"""What decoding costs by itself: the shortest loops by the same decoders, over the same clips, without any check.

They are what the loader is measured against, and nothing that may be used on real data: a damaged or unusual file gives
them wrong frames or an exception.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import statistics
import time

import av
import numpy as np
import simplejpeg

from hvt_jax.data import images, sampling, storages, transforms
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.decode import VideoReader
from hvt_jax.data.problems import VideoError
from hvt_jax.settings import DataSettings
from hvt_jax.tools import encode

_TURNS = 12  # clips at least
_GROUP, _CRF, _QUALITY = 12, 20, 90  # of the copies, made in memory, that other storages would hold
_FRAMES_COPIED = 128  # of a video at most


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The loader's reading of clips and the bare loop over the same, taking turns in one thread.

    Attributes:
      clips: how many of each.
      seconds: of a clip, the median, by the loader's reader.
      bare_seconds: of a clip, the median, by the bare loop.
    """

    clips: int
    seconds: float
    bare_seconds: float

    @property
    def ratio(self) -> float:
        """Speed of the loader's reader over that of the bare loop."""
        return self.bare_seconds / self.seconds


@dataclasses.dataclass(frozen=True)
class Copy:
    """What a clip would cost if the videos were stored another way, decoding alone."""

    storage: str
    seconds: float
    bytes_a_frame: float


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip to decode: `source` is a path, the bytes of a video file, or a list with the bytes of each frame."""

    source: str | bytes | list
    indices: np.ndarray
    height: int
    width: int
    squeeze: bool = False


def decode_bare(clip: Clip) -> np.ndarray:
    """Return the frames, uint8 [T, height, width, 3], by simplejpeg, or by PyAV with a seek."""
    if isinstance(clip.source, list):
        return _decode_pictures(clip)
    return _decode_video(clip)


def _decode_pictures(clip: Clip) -> np.ndarray:
    frames = np.empty((len(clip.source), clip.height, clip.width, 3), np.uint8)
    for place, content in enumerate(clip.source):
        pixels = content if isinstance(content, np.ndarray) else simplejpeg.decode_jpeg(content)
        frames[place] = images.fit_pixels(pixels, clip.height, clip.width, clip.squeeze)
    return frames


def _decode_video(clip: Clip) -> np.ndarray:
    """Seek by index / rate, which is not always exact, and take every frame by its time."""
    frames = np.empty((len(clip.indices), clip.height, clip.width, 3), np.uint8)
    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.source
    with av.open(source) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        first = stream.start_time or 0
        times = first + clip.indices / float(stream.average_rate * stream.time_base)
        if clip.indices[0]:
            container.seek(int(times[0]), stream=stream, backward=True)
        found = 0
        for frame in container.decode(stream):
            while found < len(times) and frame.pts is not None and frame.pts >= times[found] - 0.5:
                box = transforms.cover_box(frame.height, frame.width, clip.height, clip.width, clip.squeeze)
                is_exact = isinstance(clip.source, bytes)
                pixels = transforms.to_rgb(frame, box.resized_height, box.resized_width, is_exact)
                frames[found] = pixels[box.top : box.top + clip.height, box.left : box.left + clip.width]
                found += 1
            if found == len(times):
                break
    return frames


def compare(dataset: Dataset, settings: DataSettings, *, seed: int, seconds: float) -> Comparison:
    """Read random clips by the storage and by the bare loop in turns; videos that cannot be read are passed over.

    The bare loop has the bytes of single frames, and of stored .mp4 files, in memory; a raw file it opens itself.
    """
    storage, rng = storages.open_storage(settings, dataset), np.random.default_rng(seed)
    times, began = ([], []), time.perf_counter()
    for turn in itertools.count():
        if turn >= _TURNS and time.perf_counter() - began >= seconds:
            break
        video = dataset.videos[int(rng.integers(len(dataset)))]
        try:
            clip = draw_clip(storage, video, settings, rng)
            sides = [functools.partial(_read, storage, video, clip), functools.partial(decode_bare, clip)]
            pair = [0.0, 0.0]
            for number in (0, 1) if turn % 2 else (1, 0):
                start = time.perf_counter()
                sides[number]()
                pair[number] = time.perf_counter() - start
        except (VideoError, av.FFmpegError, ValueError, TypeError):
            continue
        times[0].append(pair[0])
        times[1].append(pair[1])
    if not times[0]:
        raise DataError(f"{dataset.root}: no video could be decoded; see which are bad with python -m hvt_jax scan")
    return Comparison(len(times[0]), statistics.median(times[0]), statistics.median(times[1]))


def measure_copies(dataset: Dataset, settings: DataSettings, *, seed: int, videos: int = 4) -> list[Copy]:
    """Return what clips would cost from copies at the training size, of a few videos, made and decoded in memory."""
    storage, rng = storages.open_storage(settings, dataset), np.random.default_rng(seed)
    found: dict[str, tuple[list[float], list[float]]] = {"jpeg": ([], []), "mp4": ([], [])}
    for number in rng.permutation(len(dataset))[: 4 * videos].tolist():
        if len(found["jpeg"][0]) >= 3 * videos:
            break
        with contextlib.suppress(VideoError, ValueError):  # ValueError: a rate that no .mp4 file can have
            frames, fps = _frames_at_training_size(storage, dataset.videos[number], settings)
            jpegs = encode.encode_jpegs(frames, _QUALITY)
            mp4 = encode.encode_mp4(frames, fps, _GROUP, _CRF)
            for name, content in (("jpeg", jpegs), ("mp4", mp4)):
                size = len(mp4) if name == "mp4" else sum(map(len, jpegs))
                found[name][1].append(size / len(frames))
                found[name][0].extend(_time_copy(content, len(frames), settings, rng) for _ in range(3))
    return [
        Copy(name, statistics.median(times), statistics.mean(sizes)) for name, (times, sizes) in found.items() if times
    ]


def _time_copy(content: bytes | list[bytes], count: int, settings: DataSettings, rng: np.random.Generator) -> float:
    indices = _draw_frames(count, settings, rng)
    source = content if isinstance(content, bytes) else [content[index] for index in indices]
    clip = Clip(source, indices, *_target(settings), settings.resize == "squeeze")
    began = time.perf_counter()
    decode_bare(clip)
    return time.perf_counter() - began


def _frames_at_training_size(storage, video: Video, settings: DataSettings) -> tuple[np.ndarray, float]:
    with storage.open_video(video) as reader:
        height, width = reader.upright_size()
        side = min(_target(settings))
        height, width = transforms.storage_size(0, 0, side, height, width)
        count = min(reader.info.num_frames, _FRAMES_COPIED)
        return reader.read(np.arange(count), height + height % 2, width + width % 2), reader.info.fps


def draw_clip(storage: storages.Storage, video: Video, settings: DataSettings, rng: np.random.Generator) -> Clip:
    """Return a random window of a video, its bytes fetched where the storage keeps frames one by one.

    Raises:
      VideoError: if the video cannot be read.
    """
    with storage.open_video(video) as reader:
        indices = _draw_frames(reader.info.num_frames, settings, rng)
        source = reader.source if isinstance(reader, VideoReader) else reader.fetch(indices)
        return Clip(source, indices, *_target(settings), settings.resize == "squeeze")


def _draw_frames(count: int, settings: DataSettings, rng: np.random.Generator) -> np.ndarray:
    span = sampling.window_span(settings.num_frames, settings.frame_stride)
    start = int(sampling.random_starts(count, span, 1, rng)[0])
    return np.unique(sampling.pick_frames(start, settings.num_frames, settings.frame_stride, count, "loop")[0])


def _target(settings: DataSettings) -> tuple[int, int]:
    return tuple(round(side * settings.resize_margin) for side in (settings.height, settings.width))


def _read(storage: storages.Storage, video: Video, clip: Clip) -> np.ndarray:
    with storage.open_video(video) as reader:
        reader.squeeze = clip.squeeze
        return reader.read(clip.indices, clip.height, clip.width)
