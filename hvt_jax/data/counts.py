"""Which samples an epoch of training has; counts the frames of every file only where the settings need it."""

import concurrent.futures
import functools
import logging

import numpy as np

from hvt_jax.data import parallel, sampling, storages
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.problems import VideoError
from hvt_jax.data.readers import restrict
from hvt_jax.settings import DataSettings

_LOG = logging.getLogger(__name__)
_THREADS_PER_CORE = 2  # opening a file is half waiting


@functools.lru_cache(maxsize=16)
def training_samples(dataset: Dataset, settings: DataSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sample of an epoch its video and its number among the samples of that video, int64 [samples].

    With `max_windows_per_video` m > 0 a video gives m samples, fewer if it is known to have fewer windows; what windows
    they are is drawn anew in every epoch. With m = 0 the number is that of the window, and all windows are there.
    Frames are counted, once, for m = 0 and where short videos are dropped; damaged videos then have none.

    Raises:
      DataError: if nothing is left.
    """
    wanted = settings.max_windows_per_video
    counts = [video.num_frames for video in dataset.videos]
    if None in counts and (wanted == 0 or settings.short_videos == "drop"):
        counts = count_frames(dataset, settings)
    if None in counts:
        samples = np.full(len(dataset), wanted)
    else:
        span = sampling.window_span(settings.num_frames, settings.frame_stride)
        table = sampling.sliding_windows(
            counts, settings.num_frames, settings.frame_stride, settings.window_step, settings.short_videos
        )
        samples = np.bincount(table.video, minlength=len(dataset))
        samples = np.minimum(samples, wanted) if wanted else samples
        if not len(table):
            raise DataError(
                f"{dataset.root}: none of {len(dataset)} videos has the {span} frames of a sample (longest: "
                f"{max(counts)}); lower data.num_frames or data.frame_stride, or set data.short_videos = 'loop'"
            )
    videos = np.repeat(np.arange(len(dataset)), samples)
    return videos, np.arange(len(videos)) - np.repeat(np.cumsum(samples) - samples, samples)


def count_frames(dataset: Dataset, settings: DataSettings) -> list[int]:
    """Return the frames of every video, 0 for one that cannot be read; says so in the log."""
    _LOG.info("counting the frames of %d videos in %s", len(dataset), dataset.root)
    counts, bad = [], []
    storage = storages.open_storage(settings, dataset)

    def count(video: Video) -> int | VideoError:
        try:
            with restrict(storage.open_video(video), video) as reader:
                return reader.info.num_frames
        except VideoError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(_THREADS_PER_CORE * parallel.available_cores()) as pool:
        for video, result in zip(dataset.videos, pool.map(count, dataset.videos), strict=True):
            if isinstance(result, VideoError):
                bad.append(f"{video.path}: {result}")
                result = 0
            counts.append(result)
            if len(counts) % 10_000 == 0:
                _LOG.info("%d of %d videos counted", len(counts), len(dataset))
    if bad:
        _LOG.warning("%d of %d videos cannot be read: %s", len(bad), len(dataset), "; ".join(bad[:10]))
    return counts
