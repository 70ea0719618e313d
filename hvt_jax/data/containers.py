"""Open video files safely, and choose the stream that a player shows."""

import dataclasses
import io
import os
import stat
import time

import av
import numpy as np

from hvt_jax.data.frame_index import FrameIndex
from hvt_jax.data.problems import Problem, VideoError

MAX_PIXELS = 8192 * 8192
MAX_FRAMES = 1_000_000
# Demuxers that read one self-contained video. Anything else (play lists, subtitles, pictures, text drawn as video) may
# open further files or turn rubbish into frames.
FORMATS = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,nut,"
    "rm,wtv,dv,gif,y4m,yuv4mpegpipe"
)
_SEGMENT, _HEAD = bytes.fromhex("18538067"), 4096  # all that an .mkv file holds; where it begins


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video; height and width in pixels as stored, before any rotation.

    `start_seconds` is when the first frame is shown, counted from the start of the file as players do: sound may begin
    before it. `num_streams` counts the video streams that are no attached pictures; one of them is read.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    duration_seconds: float
    codec: str = ""
    pixel_format: str = ""
    start_seconds: float = 0.0
    num_streams: int = 1


Source = str | os.PathLike | bytes  # path of a file, or what is in it


def open_file(source: Source, seconds: float) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open `source` and return the container and the video stream to read, ready to decode with one thread.

    Raises:
      VideoError: if there is no file, nothing in it, no video in it or too many pixels in it.
    """
    check_source(source)
    source = io.BytesIO(source) if isinstance(source, bytes) else f"file:{os.fspath(source)}"
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
    container = av.open(source, options=options, timeout=max(seconds, 0.1), metadata_errors="replace")
    try:
        return container, _video_stream(container)
    except Exception:
        container.close()
        raise


def check_source(source: Source) -> None:
    """Raise a `VideoError` if there is no file, or nothing in it."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = os.stat(source)
        except (OSError, ValueError):  # ValueError: a NUL byte
            raise VideoError(Problem.MISSING, "no such file") from None
        if not stat.S_ISREG(status.st_mode):  # also keeps us from waiting for ever at a pipe or a device
            folder = "a folder, not a file; data.storage = 'frames' reads folders of frames"
            raise VideoError(Problem.MISSING, folder if stat.S_ISDIR(status.st_mode) else "not a file")
        size = status.st_size
    if not size:
        raise VideoError(Problem.EMPTY, "the file has 0 bytes")


def is_whole(source: Source) -> bool:
    """Return whether an .avi, .mkv or .webm file is as long as its header says, False if it does not say."""
    if isinstance(source, bytes):
        head, size = source[:_HEAD], len(source)
    else:
        with open(source, "rb") as file:
            head, size = file.read(_HEAD), os.fstat(file.fileno()).st_size
    if head.startswith(b"RIFF"):  # a byte may fill it up; more would be a second part, as files of some GB have
        return 0 <= size - 8 - int.from_bytes(head[4:8], "little") <= 1
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start == len(head) or not head[start]:
        return False
    width = 9 - head[start].bit_length()  # of a number whose first set bit says how wide it is
    length = int.from_bytes(head[start : start + width]) - (1 << 7 * width)
    is_known = length != (1 << 7 * width) - 1  # all bits are set where it was not when this was written
    return is_known and start + width + length <= size


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Return the video streams, the one that players show first, without the covers of songs.

    Before others come streams that can be decoded, then those flagged as default, the largest, the fastest.
    """
    pictures, default = av.stream.Disposition.attached_pic, av.stream.Disposition.default

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, float]:
        size = (stream.width or 0) * (stream.height or 0)
        is_default = bool(stream.disposition & default)
        return stream.codec_context is not None, is_default, size, float(stream.average_rate or 0)

    shown = [stream for stream in container.streams.video if not stream.disposition & pictures]
    return sorted(shown, key=rank, reverse=True) if len(shown) > 1 else shown


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = video_streams(container)
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise VideoError(Problem.NO_VIDEO_STREAM, f"no video stream, only {', '.join(kinds)}")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(Problem.UNREADABLE, "no decoder for this codec")
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(Problem.TOO_LARGE, f"{stream.width}x{stream.height} pixels, more than {MAX_PIXELS}")
    stream.codec_context.thread_count = 1  # frame threads are slower and have hung; parallelism is the workers'
    return stream


def read_info(container: av.container.InputContainer, stream: av.VideoStream, index: FrameIndex) -> VideoInfo:
    """Return what is known of a stream that is open, and of its frames."""
    count, seconds, start = len(index.times), 0.0, 0.0
    base, zero = stream.time_base, container.start_time
    if index.has_times and base:  # the product of integers first: rounded once, and quicker than fractions
        seconds = int(index.shown[-1]) * base.numerator / base.denominator
        start = 0.0 if zero is None else int(index.times[0]) * base.numerator / base.denominator - zero / av.time_base
    fps = (count - 1) / seconds if seconds > 0 else float(stream.average_rate or 0)
    size, seconds = (stream.height, stream.width), count / fps if fps else 0.0
    codec, streams = stream.codec_context, len(video_streams(container))
    return VideoInfo(
        count, fps, *size, seconds, codec.codec.canonical_name, codec.pix_fmt or "", max(0.0, start), streams
    )


def one_frame(picture: av.VideoFrame) -> tuple[FrameIndex, VideoInfo]:
    """Return what there is to know of a picture that is a video of one frame."""
    none = np.zeros(0, np.int64)
    index = FrameIndex(np.zeros(1, np.int64), none, none, timed=False, has_times=False)
    return index, VideoInfo(1, 0.0, picture.height, picture.width, 0.0, "picture", picture.format.name)


def check_deadline(deadline: float) -> None:
    """Raise a `VideoError` once `time.monotonic()` has passed `deadline`."""
    if time.monotonic() > deadline:
        raise VideoError(Problem.TIMEOUT, "took longer than data.video_timeout_seconds to read")


def check_found(found: int, wanted: int) -> None:
    """Raise a `VideoError` if not all `wanted` frames were found."""
    if found < wanted:
        raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {wanted} frames", found)
