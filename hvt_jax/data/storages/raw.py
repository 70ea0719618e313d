"""Videos as they came, in any container, below the root of the data set; a picture is a video of one frame."""

import dataclasses
import pathlib

from hvt_jax.data.dataset import Dataset, Video
from hvt_jax.data.decode import VideoReader
from hvt_jax.data.segments import Reader
from hvt_jax.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class RawStorage:
    """Reads the files themselves; nothing stays open."""

    root: pathlib.Path
    timeout_seconds: float

    def open_video(self, video: Video) -> Reader:
        """Return a reader of one file; see `Storage`."""
        return VideoReader(self.root / video.path, self.timeout_seconds)


def open_storage(settings: DataSettings, dataset: Dataset) -> RawStorage:
    """Return the storage; `settings.storage_root` stands in for the root of the data set if it is given."""
    return RawStorage(pathlib.Path(settings.storage_root or dataset.root), settings.video_timeout_seconds)
