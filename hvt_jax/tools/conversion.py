"""One video as it will be stored: decoded frame by frame, made smaller, encoded; nothing keeps all its pixels."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import av
import numpy as np

from hvt_jax.data import decode, transforms
from hvt_jax.data.dataset import Video
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import frame_range
from hvt_jax.data.storages import EncodedVideo
from hvt_jax.tools import encode

MEMORY_BYTES = 4 * 2**30  # of address space for one video
_SLOWEST_RATE = 0.01  # frames per second; what a header says beyond this and `encode.LARGEST_RATE` is no rate


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What becomes of frames; equal options and equal videos give equal bytes.

    Attributes:
      content: a JPEG file for each frame, or one .mp4 file for each video.
      short_side: pixels of the shorter side; smaller frames are not enlarged, and 0 leaves all as they are.
      crop: height and width in pixels that frames are resized to cover and cut to in the centre; in the place of
        `short_side` if it is given.
      quality: of JPEG files, 1-100.
      crf: of .mp4 files, see `encode.encode_mp4`.
      group: frames from one keyframe of an .mp4 file to the next.
    """

    content: Literal["jpeg", "mp4"]
    short_side: int
    crop: tuple[int, int] | None
    quality: int
    crf: int
    group: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels that frames are stored at; both even for H.264."""
        if self.crop:
            height, width = self.crop
        elif 0 < self.short_side < min(height, width):
            height, width = transforms.storage_size(0, 0, self.short_side, height, width)
        step = 2 if self.content == "mp4" else 1
        return max(step, height - height % step), max(step, width - width % step)


@dataclasses.dataclass(frozen=True)
class Task:
    """One video to convert.

    Attributes:
      file: the video file.
      video: what of it is meant.
      name: path that it is stored under.
      timeout_seconds: what each thousand frames may take.
      encoding: what to make of them.
    """

    file: str
    video: Video
    name: str
    timeout_seconds: float
    encoding: Encoding


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a video could not be converted: the kind, and a line about it."""

    problem: str
    reason: str


def convert_video(task: Task, renew: Callable[[], None]) -> EncodedVideo | Failure:
    """Return a video, or its segment, as it is stored; `renew` is called with every thousand frames."""
    try:
        with decode.VideoReader(task.file, task.timeout_seconds, renew) as reader:
            frames = frame_range(reader.info, task.video)
            fps = reader.info.fps if _SLOWEST_RATE <= reader.info.fps <= encode.LARGEST_RATE else 0.0
            collected = _Collected(task.encoding, fps)
            reader.read_range(frames, collected.keep)
        return collected.finish(task.name, len(frames))
    except VideoError as error:
        return Failure(str(error.problem), " ".join(str(error).split()))
    except MemoryError:
        return Failure(str(Problem.TOO_LARGE), f"needs more than {MEMORY_BYTES // 2**30} GiB of memory")


class _Collected:
    """Frames encoded as they come; the first one decides the size, and a second first one begins anew."""

    def __init__(self, encoding: Encoding, fps: float):
        self._encoding, self._fps, self._orientations = encoding, fps, transforms.Orientations()

    def keep(self, number: int, frame: av.VideoFrame) -> None:
        if number == 0:
            self._size = self._encoding.size(*transforms.upright_size(frame, self._orientations.of(frame)))
            self._jpegs: list[bytes] = []
            if self._encoding.content == "mp4":
                self._mp4 = encode.Mp4Writer(self._fps, self._encoding.group, self._encoding.crf)
        self._add(transforms.fit_frame(frame, *self._size, self._orientations.of(frame)))

    def _add(self, pixels: np.ndarray) -> None:
        if self._encoding.content == "mp4":
            self._mp4.add(pixels)
        else:
            self._jpegs += encode.encode_jpegs([pixels], self._encoding.quality)

    def finish(self, name: str, num_frames: int) -> EncodedVideo:
        mp4 = self._mp4.finish() if self._encoding.content == "mp4" else b""
        return EncodedVideo(name, num_frames, self._fps, *self._size, self._jpegs, mp4)
