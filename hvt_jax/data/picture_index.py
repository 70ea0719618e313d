"""The frames of a stream by decoding all of it, and what every way of listing them needs to know of its format."""

import contextlib
import itertools
import math
from collections.abc import Callable

import av
import numpy as np

from hvt_jax.data.frame_index import FrameIndex
from hvt_jax.data.problems import Problem, VideoError

Tick = Callable[[int], None]  # called with every frame; raises when the time is over

# Where a decoded frame carries the same time after a seek as without one, B-frames included; found by comparing random
# reads with full decodes. All other files are decoded from their start. .avi joins them where there are no B-frames: it
# stores no presentation times, and what is guessed for B-frames is out of order.
_TIMED_FORMATS = frozenset("mov mp4 matroska webm mpegts flv asf".split())
# Recordings that follow each other in one of these have clocks of their own; players go on after a jump of 10 seconds.
_JOINED_FORMATS, _LONGEST_STILL = frozenset("mpegts mpeg ogg".split()), 10.0
# A packet of these may hold no picture of its own; of any other codec one without a picture is a loss.
_MAY_REPEAT = frozenset("mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h263 flv1 wmv1 wmv2 vp8 vp9 av1 theora".split())


def index_pictures(container: av.container.InputContainer, stream: av.VideoStream, tick: Tick) -> FrameIndex:
    """List the frames of a freshly opened stream by decoding all of it; it is at its end afterwards.

    Raises:
      VideoError: if there is none.
    """
    skipped, packets, times, decode_times, keys = None, 0, [], [], []
    for packet in container.demux(stream):
        if packet.is_keyframe and skipped is None:
            skipped, times, decode_times = packets, [], []
            stream.codec_context.flush_buffers()
        with contextlib.suppress(av.FFmpegError):  # found again when it is read
            times += [picture.pts for picture in packet.decode()]
        if packet.size:
            packets += 1
            decode_times.append(packet.dts)
        if packet.is_keyframe and packet.pts is not None:
            keys.append(key_times(packet.pts, packet.dts))
        tick(packets)
    if not times:
        raise VideoError(Problem.UNREADABLE, "no frame can be decoded")
    if _are_rising(times) and is_timed(container, stream):
        shown = set(times)
        keys = [key for key in keys if key[0] in shown]
        return seekable(container, stream, np.array(times, np.int64), keys, skipped or 0)
    for known in (times, decode_times):
        if len(known) == len(times) and _are_rising(known):
            return from_start(container, stream, known, skipped or 0)
    return from_start(container, stream, [None] * len(times), skipped or 0)


def _are_rising(times: list[int | None]) -> bool:
    return None not in times and all(early < late for early, late in itertools.pairwise(times))


def key_times(shown: int, decoded: int | None) -> tuple[int, int]:
    """Return when a keyframe is shown and what to seek to: formats index either time, and may pass by the larger."""
    return shown, shown if decoded is None else min(shown, decoded)


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
