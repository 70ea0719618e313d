"""Videos as they came, in any container, below the root of the data set; a picture is a video of one frame."""

import dataclasses
import pathlib

from hvt_jax.data import images
from hvt_jax.data.decode import VideoInfo, VideoReader
from hvt_jax.data.sources import Dataset, Video
from hvt_jax.data.storages.base import FrameReader, StoredFrames
from hvt_jax.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class RawStorage:
    """Reads the files themselves; nothing stays open."""

    root: pathlib.Path
    timeout_seconds: float

    def open_video(self, video: Video) -> FrameReader:
        """Return a reader of one file; see `Storage`."""
        path = self.root / video.path
        if path.suffix.lower() not in images.SUFFIXES:
            return VideoReader(path, self.timeout_seconds)
        content = images.read_image(path, follow_links=True)  # the catalog has looked at them
        height, width, _ = images.image_size(content)
        return StoredFrames(VideoInfo(1, 0.0, height, width, 0.0), lambda _: iter([content]), self.timeout_seconds)


def open_storage(settings: DataSettings, dataset: Dataset) -> RawStorage:
    """Return the storage; `settings.storage_root` stands in for the root of the data set if it is given."""
    return RawStorage(pathlib.Path(settings.storage_root or dataset.root), settings.video_timeout_seconds)
