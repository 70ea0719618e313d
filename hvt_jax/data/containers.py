"""Video files: opened safely, the stream that a player shows, and where its frames are in time."""

import dataclasses
import functools
import io
import math
import os
import stat

import av
import numpy as np

from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_PIXELS, VideoInfo

# Demuxers that read one self-contained video. Anything else (play lists, subtitles, pictures, text drawn as video) may
# open further files or turn rubbish into frames.
FORMATS = (
    "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,nut,"
    "rm,wtv,dv,gif,y4m,yuv4mpegpipe"
)
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .png".split())
_PICTURE_STARTS = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SEGMENT, _HEAD = bytes.fromhex("18538067"), 4096  # all that an .mkv file holds; where it begins
# Where a decoded frame carries the same time after a seek as without one, B-frames included; found by comparing random
# reads with full decodes. All other files are decoded from their start. .avi joins them where there are no B-frames: it
# stores no presentation times, and what is guessed for B-frames is out of order.
_TIMED_FORMATS = frozenset("mov mp4 matroska webm mpegts flv asf".split())
# Recordings that follow each other in one of these have clocks of their own; players go on after a jump of 10 seconds.
_JOINED_FORMATS, _LONGEST_STILL = frozenset("mpegts mpeg ogg".split()), 10.0
# A packet of these may hold no picture of its own; of any other codec one without a picture is a loss.
_MAY_REPEAT = frozenset("mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h263 flv1 wmv1 wmv2 vp8 vp9 av1 theora".split())
_PAUSE = 3  # usual gaps between two frames; in a longer one the first of them goes on being shown
_SEEK_GAIN = 4  # frames that must be saved before a seek is cheaper than decoding on

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


def is_picture(path: str | os.PathLike) -> bool:
    """Return whether `path` has the name of a picture, and the bytes of one.

    Names and content need not agree: one file of ImageNet is a PNG called .JPEG.
    """
    if os.path.splitext(path)[1].lower() not in PICTURE_SUFFIXES:
        return False
    with open(path, "rb") as file:
        return file.read(8).startswith(_PICTURE_STARTS)


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


def is_timed(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Return whether decoded frames are known by their times after a seek."""
    formats, codec = container.format.name.split(","), stream.codec_context
    reorders = bool(codec.has_b_frames)
    if codec.pix_fmt == "pal8":  # the palette comes with the first packet alone; after a seek pictures may be black
        return False
    if formats == ["avi"]:
        return not reorders
    if reorders and codec.codec.canonical_name == "mpeg4" and "mpegts" in formats:  # times are guessed after a seek
        return False
    return not _TIMED_FORMATS.isdisjoint(formats)


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """Where the frames of a stream are, in units of its time base.

    Attributes:
      times: int64 [frames], when each is shown, rising.
      key_times: int64 [keys], presentation times of the frames at which decoding may begin, rising.
      key_seeks: int64 [keys], the time to seek to for each of them.
      timed: whether decoded frames carry these times, so that they can be recognised after a seek.
      skipped: packets at the start of which nothing can be decoded.
      repeats: whether a frame that the decoder does not give shows the picture before it.
      has_times: whether `times` are times and not only numbers.
      longest_still: a frame is not shown for longer: times further apart are those of two recordings.
    """

    times: np.ndarray
    key_times: np.ndarray
    key_seeks: np.ndarray
    timed: bool
    skipped: int = 0
    repeats: bool = False
    has_times: bool = True
    longest_still: float = math.inf

    @functools.cached_property
    def _usual_gap(self) -> int:
        """Time between two frames that three of four do not exceed."""
        gaps = np.sort(np.diff(self.times))
        return int(gaps[3 * len(gaps) // 4]) if len(gaps) else 0

    @functools.cached_property
    def shown(self) -> np.ndarray:
        """When each frame is shown, from 0 for the first, int64 [frames]; recordings that were joined go on."""
        gaps = np.diff(self.times, prepend=self.times[:1])
        return np.cumsum(np.where(gaps > self.longest_still, self._usual_gap, gaps))

    @functools.cached_property
    def half_spacing(self) -> float:
        """How far from the time wanted a decoded frame may be and still count as that frame."""
        return float(np.median(np.diff(self.times))) / 2 if self.timed and len(self.times) > 1 else 0.0

    def frame_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Return which frames are shown at `indices`, counted on an even time grid from the first frame to the last.

        At a constant frame rate frame i is index i; at a variable one the nearest frame in time is taken, so that a
        sample moves at the speed of the video; in a pause the frame before it.
        """
        shown, count = self.shown, len(self.times)
        if count < 3:
            return indices
        grid = indices * (shown[-1] / (count - 1))
        after = np.clip(np.searchsorted(shown, grid), 1, count - 1)
        gaps = shown[after] - shown[after - 1]
        early = np.where(gaps > _PAUSE * self._usual_gap, self._usual_gap, gaps) / 2
        return after - (shown[after] - grid > early)

    def split_runs(self, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Cut `wanted`, rising frame numbers, into (first, last) ranges where a later keyframe saves decoding."""
        keys = np.searchsorted(self.times, self.key_times)
        key_of = keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)] if len(keys) else wanted * 0
        cuts = 1 + np.flatnonzero(key_of[1:] - wanted[:-1] >= _SEEK_GAIN)
        edges = [0, *cuts.tolist(), len(wanted)]
        return list(zip(edges[:-1], edges[1:], strict=True))


def seekable(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: np.ndarray,
    keys: list[tuple[int, int]],
    skipped: int,
) -> FrameIndex:
    """Return the index of frames that are found after a seek."""
    rows = np.array(sorted(keys), np.int64).reshape(-1, 2)
    repeats, still = stream.codec_context.codec.canonical_name in _MAY_REPEAT, _longest_still(container, stream)
    return FrameIndex(times, rows[:, 0], rows[:, 1], True, skipped, repeats, longest_still=still)


def from_start(
    container: av.container.InputContainer, stream: av.VideoStream, times: list[int | None], skipped: int
) -> FrameIndex:
    """Return the index of frames that are found by decoding from the start alone, with times if they have some."""
    has_times = container.start_time is not None and None not in times  # raw streams have made-up ones
    shown, none = np.array(times, np.int64) if has_times else np.arange(len(times)), np.zeros(0, np.int64)
    still = _longest_still(container, stream)
    return FrameIndex(shown, none, none, False, skipped, has_times=has_times, longest_still=still)


def _longest_still(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return the units of time that a frame may be shown for."""
    if _JOINED_FORMATS.isdisjoint(container.format.name.split(",")) or not stream.time_base:
        return math.inf
    return _LONGEST_STILL / float(stream.time_base)


def declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return when the last frame should end, 0 if the header does not say; only .mkv and .webm count no frames."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        # With sound beside it, the sound may last longer than the video.
        alone = "matroska" in container.format.name and len(container.streams) == 1
        return container.duration / av.time_base if alone and container.duration else 0.0


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
