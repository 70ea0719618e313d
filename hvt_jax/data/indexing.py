"""Which frames a video has and when each is shown, as a player would show it, mostly without decoding.

Listing packets costs about a millisecond for a clip of ten seconds, and it is what makes seeking exact: positions
guessed from the frame rate were one frame off on 10 of 36 random reads of UCF101 files. But a packet is not a picture:

    cut or joined midway   what is shown before the first keyframe cannot be decoded, or is made from frames that are
                           not there; it does not exist, and the first frames are decoded to see where the video begins
    hidden (VP8)           is decoded for the sake of others and never shown; no frame
    not coded (MPEG-4)     shows the picture before once more; a frame
    empty chunk (.avi)     the same, but it is not even delivered; the frames around it are just further apart
    cut by an edit list    is not shown; no frame
    field (H.264)          is half of a frame, where interlaced video is stored in fields

Where packets cannot tell, as in files without times or with fields, all is decoded once to see.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable

import av
import numpy as np

from hvt_jax.data import containers
from hvt_jax.data.containers import FrameIndex, from_start, is_timed, seekable
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.readers import MAX_FRAMES, LruCache

Tick = Callable[[int], None]  # called with every frame; raises when the time is over

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
        self._is_timed = is_timed(container, stream)
        self._listed_before = len(stream.index_entries)
        self._stored = self._pictures = self._ends = 0
        self._times: list[int | None] = []
        self._decode_times: list[int | None] = []
        self._keys: list[tuple[int, int]] = []
        # Packets before the first keyframe, None until it has come; when the first picture is shown, None if unknown.
        self._skipped: int | None = None
        self._start: int | None = None
        self._second: int | None = None  # when the second one is, where it tells frames from fields
        self._is_looking = self._is_timed

    def add(self, packet: av.Packet) -> int:
        """Take in the next packet, an empty one at the end; return how many there were."""
        if packet.is_keyframe and self._skipped is None and not self._says_nothing_changed(packet):
            self._begin()
        if self._is_looking:
            self._look(packet)
        if not packet.size:
            return self._stored
        self._stored += 1
        if self._stored > MAX_FRAMES:
            raise VideoError(Problem.TOO_LARGE, f"more than {MAX_FRAMES} frames")
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
            if packet.is_keyframe:
                self._keys.append(_key_times(shown, packet.dts))
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
        """Decode until the first picture that is not made from what came before the beginning.

        Of interlaced H.264 the second is decoded too: where fields are stored it is not that of the second packet.
        """
        try:
            pictures = packet.decode()
        except av.FFmpegError:
            self._is_looking = self._skipped is None  # damage after the first keyframe is found when it is read
            return
        for picture in pictures:
            if self._start is not None:
                self._second, self._is_looking = picture.pts, False
                return
            if self._skipped is not None or picture.key_frame:
                self._skipped, self._start = self._skipped or 0, picture.pts
                self._is_looking = picture.interlaced_frame and self._codec == "h264"
                if not self._is_looking:
                    return

    def _count_pictures(self, packet: av.Packet) -> int:
        """Return how many pictures a packet seems to show."""
        if self._codec == "vp8":
            return int(bool(memoryview(packet)[0] & 0x10))
        if self._codec == "mpeg4" and not self._is_timed:  # DivX packs two into one packet and none into the next
            return bytes(packet).count(_VOP_START) - self._says_nothing_changed(packet)
        return 1

    def _says_nothing_changed(self, packet: av.Packet) -> bool:
        return self._codec == "mpeg4" and 0 < packet.size <= _NOT_CODED

    def index(self) -> FrameIndex | None:
        """Return the frames, None if packets cannot tell them."""
        decoded = [when for when in self._decode_times if when is not None]
        is_straight = all(early <= late for early, late in itertools.pairwise(decoded))  # not two recordings in one
        if None in self._times or len(set(self._times)) < len(self._times) or not is_straight:
            return None
        times = np.sort(np.array(self._times, np.int64))
        if self._is_timed:
            first = 0 if self._start is None or self._start > times[-1] else int(np.searchsorted(times, self._start))
            times = times[first:]
            # Copied from a container without presentation times, pictures would be found in the order of decoding.
            is_disordered = self._reorders and self._times == self._decode_times
            if is_disordered or (self._second is not None and self._has_fields(times)):
                return None
            return seekable(self._container, self._stream, times, self._keys, self._skipped or 0)
        if self._skipped or self._times[0] != times[0] or self._pictures < self._stored:
            return None
        if self._formats == ["avi"] and len(decoded) == len(times):  # its presentation times are guesses
            return from_start(self._container, self._stream, decoded, 0)
        return from_start(self._container, self._stream, times.tolist(), 0)

    def _has_fields(self, times: np.ndarray) -> bool:
        """Return whether interlaced video seems to be stored, at least in part, in packets of half a frame."""
        gaps = np.diff(times)
        return self._second not in times[1:2] or gaps.min() < 0.75 * np.median(gaps)

    def check_whole(self) -> None:
        """Raise a `VideoError` if there is no frame, or the header promises clearly more than the file holds."""
        if not self._times:
            raise VideoError(Problem.TOO_FEW_FRAMES, f"no frame is left of {self._stream.frames or 'any'}")
        promised, found = self._stream.frames, self._stored
        if "mov" in self._formats:  # the header counts samples that an edit list cuts away, its index does not
            promised = len(self._stream.index_entries)
        elif self._formats == ["avi"] and self._decode_times[-1] is not None:
            # The header counts empty chunks too. Those at the end leave no trace but a whole index, or a whole file.
            found = max(found, self._decode_times[-1] + 1)
            promised = 0 if 1 < self._stored <= self._listed_before else promised
            promised = 0 if promised > found and containers.is_whole(self._source) else promised
        if promised - found > max(1, promised * _LOST_ALLOWED):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {found} of {promised} frames", found)
        declared = 0.0 if promised else containers.declared_seconds(self._container, self._stream)
        ends = float(self._ends * self._stream.time_base)
        allowed = 2 / float(self._stream.average_rate or 1) + declared * _LOST_ALLOWED
        # A last frame may be shown for long, and .webm does not say how long, so that too little is no proof.
        if declared - ends > allowed and None not in self._times and not containers.is_whole(self._source):
            raise VideoError(Problem.TOO_FEW_FRAMES, f"truncated: {ends:.1f} of {declared:.1f} seconds", self._stored)


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
            keys.append(_key_times(packet.pts, packet.dts))
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


def _key_times(shown: int, decoded: int | None) -> tuple[int, int]:
    """Return when a keyframe is shown and what to seek to: formats index either time, and may pass by the larger."""
    return shown, shown if decoded is None else min(shown, decoded)


_LISTS = LruCache(None, _MOST_FRAMES, lambda index: len(index.times))


def list_frames(
    source: containers.Source, container: av.container.InputContainer, stream: av.VideoStream, tick: Tick
) -> tuple[FrameIndex, bool]:
    """Return the frames of a freshly opened stream, and whether the stream is still at its start.

    It is where the list comes from memory: the file, or what is in it, is the same as then.

    Raises:
      VideoError: see `index_packets` and `index_pictures`.
    """
    key = _state(source)
    if (index := _LISTS.find(key)) is not None:
        return index, True
    index = index_packets(source, container, stream, tick)
    if index is None:
        again, stream = containers.open_file(source, _OPEN_SECONDS)
        with again:
            index = index_pictures(again, stream, tick)
    return _LISTS.keep(key, index), False


def _state(source: containers.Source) -> tuple:
    """Return what changes when a file, or what is in it, does."""
    if isinstance(source, bytes):
        return len(source), hashlib.blake2b(source, digest_size=16).digest()
    status = os.stat(source)
    return os.fspath(source), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
