"""Which frames a video has and when each is shown, as a player would show it, mostly without decoding.

Listing packets costs about a millisecond for a clip of ten seconds, and it is what makes seeking exact: positions
guessed from the frame rate were one frame off on 10 of 36 random reads of UCF101 files. But a packet is not a picture:

    cut or joined midway   what is shown before the first keyframe cannot be decoded, or is made from frames that are
                           not there; it does not exist, and the first frames are decoded to see where the video begins
    hidden (VP8)           is decoded for the sake of others and never shown; no frame
    not coded (MPEG-4)     shows the picture before once more; a frame
    empty chunk (.avi)     the same, but it is not even delivered; the frames around it are just further apart
    cut by an edit list    is not shown; no frame

Where packets cannot tell, as in files without times, all is decoded once to see.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable

import av
import numpy as np

from hvt_jax.data import containers
from hvt_jax.data.frame_index import FrameIndex, IndexCache
from hvt_jax.data.problems import Problem, VideoError

Tick = Callable[[int], None]  # called with every frame; raises when the time is over

# Where a decoded frame carries the same time after a seek as without one, B-frames included; found by comparing random
# reads with full decodes. All other files are decoded from their start. .avi joins them where there are no B-frames: it
# stores no presentation times, and what is guessed for B-frames is out of order.
_TIMED_FORMATS = frozenset("mov mp4 matroska webm mpegts flv asf".split())
# A packet of these may hold no picture of its own; of any other codec one without a picture is a loss.
_MAY_REPEAT = frozenset("mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h263 flv1 wmv1 wmv2 vp8 vp9 av1 theora".split())
# Of these the first keyframe need not be the first picture: decoding may begin at any recovery point.
_MAY_RECOVER = frozenset("h264 hevc vvc".split())
_VOP_START = b"\0\0\1\xb6"
_NOT_CODED = 8  # bytes of an MPEG-4 packet at most that only says that nothing has changed
_LOST_ALLOWED = 0.02  # recorders drop some frames and still count them in the header
_MOST_FRAMES = 4_000_000  # remembered, 8 bytes each, in every process
_OPEN_SECONDS = 30.0  # to open a file that has just been read


def index_packets(
    source: containers.Source, container: av.container.InputContainer, stream: av.VideoStream, tick: Tick
) -> FrameIndex | None:
    """List the frames of a freshly opened stream by its packets, None if they cannot tell; it is at its end afterwards.

    Raises:
      VideoError: if the stream holds no frame, too many, or clearly fewer than its header declares.
    """
    packets = _Packets(source, container, stream)
    for packet in container.demux(stream):
        tick(packets.add(packet))
    packets.check_whole()
    return packets.index()


class _Packets:
    """What the packets of a freshly opened stream say; the first ones are decoded where that may tell more."""

    def __init__(self, source: containers.Source, container: av.container.InputContainer, stream: av.VideoStream):
        self._source, self._container, self._stream = source, container, stream
        self._codec = stream.codec_context.codec.canonical_name
        self._formats = container.format.name.split(",")
        self._reorders = bool(stream.codec_context.has_b_frames)
        is_timed_avi = self._formats == ["avi"] and not self._reorders
        self._is_timed = is_timed_avi or not _TIMED_FORMATS.isdisjoint(self._formats)
        self._listed_before = len(stream.index_entries)
        self._stored = self._pictures = self._ends = 0
        self._times: list[int | None] = []
        self._decode_times: list[int | None] = []
        self._keys: list[tuple[int, int]] = []
        # Packets before the first keyframe, None until it has come; when the first picture is shown, None if unknown.
        self._skipped: int | None = None
        self._start: int | None = None
        self._is_looking = self._is_timed

    def add(self, packet: av.Packet) -> int:
        """Take in the next packet, an empty one at the end; return how many there were."""
        if packet.is_keyframe and self._skipped is None:
            self._begin()
        if self._is_looking:
            self._look(packet)
        if not packet.size:
            return self._stored
        self._stored += 1
        if self._stored > containers.MAX_FRAMES:
            raise VideoError(Problem.TOO_LARGE, f"more than {containers.MAX_FRAMES} frames")
        self._decode_times.append(packet.dts)
        if packet.is_discard:  # cut away by an edit list
            return self._stored
        pictures = self._count_pictures(packet)
        self._pictures += pictures
        if not pictures and self._codec == "vp8":
            return self._stored
        shown = packet.dts if packet.pts is None and not self._reorders else packet.pts
        self._times.append(shown)
        if shown is not None:
            self._ends = max(self._ends, shown + (packet.duration or 0))
            if packet.is_keyframe:  # formats index either time, and a seek to the larger one may pass this frame
                self._keys.append((shown, shown if packet.dts is None else min(shown, packet.dts)))
        return self._stored

    def _begin(self) -> None:
        """Forget what came before the first keyframe."""
        self._skipped = self._stored
        self._times.clear()
        if self._stored:
            self._stream.codec_context.flush_buffers()
        elif not self._reorders and self._codec not in _MAY_RECOVER:
            self._is_looking = False  # nothing can be shown before it, and it is whole

    def _look(self, packet: av.Packet) -> None:
        """Decode until the first picture that is not made from what came before the beginning."""
        try:
            pictures = packet.decode()
        except av.FFmpegError:
            self._is_looking = self._skipped is None  # damage after the first keyframe is found when it is read
            return
        for picture in pictures:
            if self._skipped is not None or picture.key_frame:
                self._skipped, self._start, self._is_looking = self._skipped or 0, picture.pts, False
                return

    def _count_pictures(self, packet: av.Packet) -> int:
        """Return how many pictures a packet seems to show."""
        if self._codec == "vp8":
            return int(bool(memoryview(packet)[0] & 0x10))
        if self._codec == "mpeg4" and not self._is_timed:  # DivX packs two into one packet and none into the next
            return bytes(packet).count(_VOP_START) - (packet.size <= _NOT_CODED)
        return 1

    def index(self) -> FrameIndex | None:
        """Return the frames, None if packets cannot tell them."""
        decoded = [when for when in self._decode_times if when is not None]
        is_straight = all(early <= late for early, late in itertools.pairwise(decoded))  # not two recordings in one
        if None in self._times or len(set(self._times)) < len(self._times) or not is_straight:
            return None
        times = np.sort(np.array(self._times, np.int64))
        if self._is_timed:
            first = 0 if self._start is None or self._start > times[-1] else int(np.searchsorted(times, self._start))
            keys = np.array(sorted(self._keys), np.int64).reshape(-1, 2)
            repeats = self._codec in _MAY_REPEAT
            return FrameIndex(times[first:], keys[:, 0], keys[:, 1], True, self._skipped or 0, repeats)
        if self._skipped or self._times[0] != times[0] or self._pictures < self._stored:
            return None
        if self._formats == ["avi"] and len(decoded) == len(times):  # its presentation times are guesses
            return _from_start(self._container, decoded, 0)
        return _from_start(self._container, times.tolist(), 0)

    def check_whole(self) -> None:
        """Raise a `VideoError` if there is no frame, or the header promises clearly more than the file holds."""
        if not self._times:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"no frame is left of {self._stream.frames or 'any'}")
        promised, found = self._stream.frames, self._stored
        if "mov" in self._formats:  # the header counts samples that an edit list cuts away, its index does not
            promised = len(self._stream.index_entries)
        elif self._formats == ["avi"] and self._decode_times[-1] is not None:
            # The header counts empty chunks too. Those at the end leave no trace but a whole index.
            found = max(found, self._decode_times[-1] + 1)
            promised = 0 if 1 < self._stored <= self._listed_before else promised
        if promised - found > max(1, promised * _LOST_ALLOWED):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {promised} frames", found)
        declared = 0.0 if promised else _declared_seconds(self._container, self._stream)
        ends = float(self._ends * self._stream.time_base)
        allowed = 2 / float(self._stream.average_rate or 1) + declared * _LOST_ALLOWED
        # A last frame may be shown for long, and .webm does not say how long, so that too little is no proof.
        if declared - ends > allowed and None not in self._times and not containers.is_whole(self._source):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {ends:.1f} of {declared:.1f} seconds", self._stored)


def _declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return when the last frame should end, 0 if the header does not say; only .mkv and .webm count no frames."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        # With sound beside it, the sound may last longer than the video.
        alone = "matroska" in container.format.name and len(container.streams) == 1
        return container.duration / av.time_base if alone and container.duration else 0.0


def index_pictures(container: av.container.InputContainer, stream: av.VideoStream, tick: Tick) -> FrameIndex:
    """List the frames of a freshly opened stream by decoding all of it; it is at its end afterwards.

    Raises:
      VideoError: if there is none.
    """
    skipped, packets, times, decode_times = None, 0, [], []
    for packet in container.demux(stream):
        if packet.is_keyframe and skipped is None:
            skipped, times, decode_times = packets, [], []
            stream.codec_context.flush_buffers()
        with contextlib.suppress(av.FFmpegError):  # found again when it is read
            times += [picture.pts for picture in packet.decode()]
        if packet.size:
            packets += 1
            decode_times.append(packet.dts)
        tick(packets)
    if not times:
        raise VideoError(Problem.UNREADABLE, "no frame can be decoded")
    for known in (times, decode_times):
        if len(known) == len(times) and None not in known and all(a < b for a, b in itertools.pairwise(known)):
            return _from_start(container, known, skipped or 0)
    return _from_start(container, [None] * len(times), skipped or 0)


def _from_start(container: av.container.InputContainer, times: list[int | None], skipped: int) -> FrameIndex:
    """Return the index of frames that are found by decoding from the start alone, with times if they have some."""
    has_times = container.start_time is not None and None not in times  # raw streams have made-up ones
    shown, none = np.array(times, np.int64) if has_times else np.arange(len(times)), np.zeros(0, np.int64)
    return FrameIndex(shown, none, none, False, skipped, has_times=has_times)


_CACHE = IndexCache(_MOST_FRAMES)


def list_frames(
    source: containers.Source, container: av.container.InputContainer, stream: av.VideoStream, tick: Tick
) -> tuple[FrameIndex, bool]:
    """Return the frames of a freshly opened stream, and whether the stream is still at its start.

    It is where the list comes from memory: the file, or what is in it, is the same as then.

    Raises:
      VideoError: see `index_packets` and `index_pictures`.
    """
    key = _state(source)
    index = _CACHE.get(key)
    if index is not None:
        return index, True
    index = index_packets(source, container, stream, tick)
    if index is None:
        again, stream = containers.open_file(source, _OPEN_SECONDS)
        with again:
            index = index_pictures(again, stream, tick)
    _CACHE.put(key, index)
    return index, False


def _state(source: containers.Source) -> tuple:
    """Return what changes when a file, or what is in it, does."""
    if isinstance(source, bytes):
        return len(source), hashlib.blake2b(source, digest_size=16).digest()
    status = os.stat(source)
    return os.fspath(source), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
