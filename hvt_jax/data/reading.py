"""Opening the video of one sample, with what is known of bad videos."""

import contextlib
from collections.abc import Iterator

from hvt_jax.data import segments, stages, storages
from hvt_jax.data.dataset import Dataset, Video
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.quarantine import BadVideo
from hvt_jax.settings import DataSettings


@contextlib.contextmanager
def open_video(dataset: Dataset, settings: DataSettings, video: Video) -> Iterator[segments.Reader]:
    """Open a video, seen through its segment where it has one; one that cannot be opened is opened only once.

    Raises:
      VideoError: if it cannot be read, also from within the `with` block; `Problem.DAMAGED` if it could be opened.
    """
    is_open = False
    try:
        if video.path in dataset.quarantine:
            problem, frames = dataset.quarantine[video.path]
            raise VideoError(Problem(problem), dataset.reasons.get(video.path, ""), frames)
        storage = storages.open_storage(settings, dataset)
        with segments.restrict(_open(storage, video), video) as reader:
            is_open = True
            yield reader
    except VideoError as error:
        is_damaged = is_open and error.problem in (Problem.UNREADABLE, Problem.TOO_FEW_FRAMES)
        problem = Problem.DAMAGED if is_damaged else error.problem
        if BadVideo(video.path, problem, error.frames, 0).is_closed:
            dataset.quarantine[video.path], dataset.reasons[video.path] = (int(problem), error.frames), str(error)
        raise VideoError(problem, str(error), error.frames) from error


@stages.timed("read")
def _open(storage: storages.Storage, video: Video) -> segments.Reader:
    return storage.open_video(video)
