"""The lists of frames of files that were opened before, so that a later epoch need not make them again.

A file that has changed since is listed again.
"""

import collections
import hashlib
import os
import threading

import av

from hvt_jax.data import containers

_MOST_FRAMES = 4_000_000  # 8 bytes each, in every process


class IndexCache:
    """The most recently used lists; threads may share it."""

    def __init__(self, most_frames: int):
        """Keep lists of `most_frames` frames together."""
        self._most_frames, self.num_frames = most_frames, 0
        self._lists: collections.OrderedDict[tuple, containers.FrameIndex] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> containers.FrameIndex | None:
        """Return what was put there under `key`, None if it is not there any more."""
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key)

    def put(self, key: tuple, index: containers.FrameIndex) -> None:
        """Keep `index`; what was not used for longest goes where there are too many."""
        with self._lock:
            if key not in self._lists:
                self._lists[key] = index
                self.num_frames += len(index.times)
            while self.num_frames > self._most_frames:
                self.num_frames -= len(self._lists.popitem(last=False)[1].times)


_CACHE = IndexCache(_MOST_FRAMES)


def list_frames(
    source: containers.Source, container: av.container.InputContainer, stream: av.VideoStream, deadline: float
) -> tuple[containers.FrameIndex, bool]:
    """Return `containers.index_frames` of a freshly opened stream, and whether the stream is still at its start.

    It is where the list comes from memory: the file, or what is in it, is the same as then.

    Raises:
      VideoError: see there.
    """
    key = _state(source)
    index = _CACHE.get(key)
    if index is not None:
        return index, True
    index = containers.index_frames(container, stream, deadline)
    _CACHE.put(key, index)
    return index, False


def _state(source: containers.Source) -> tuple:
    """Return what changes when a file, or what is in it, does."""
    if isinstance(source, bytes):
        return len(source), hashlib.blake2b(source, digest_size=16).digest()
    status = os.stat(source)
    return os.fspath(source), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
