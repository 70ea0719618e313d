"""Files that come to be whole or not at all, and a bounded cache of open ones."""

import collections
import contextlib
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable, Hashable, Iterator


class OpenFiles:
    """At most `most` open files by name, the least recently used forgotten first; threads may share it.

    What is forgotten is not closed here but by its last user's reference: another thread may still be reading.
    """

    def __init__(self, open_file: Callable[[Hashable], object], most: int = 32):
        """Open what is missing by `open_file`."""
        self._open_file, self._most = open_file, most
        self._files: collections.OrderedDict = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable) -> object:
        """Return the file `name`, opening it if it is not open."""
        with self._lock:
            if name in self._files:
                self._files.move_to_end(name)
            else:
                self._files[name] = self._open_file(name)
                if len(self._files) > self._most:
                    self._files.popitem(last=False)
            return self._files[name]

    def __len__(self) -> int:
        return len(self._files)

    def __reduce__(self):
        return type(self), (self._open_file, self._most)  # open files stay behind


@contextlib.contextmanager
def replaced(path: pathlib.Path, sync: bool) -> Iterator[pathlib.Path]:
    """Give a temporary path to write a file to; at the end it is synced and renamed, on an error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        if sync:
            sync_to_disk(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if sync:
        sync_to_disk(path.parent)


def sync_to_disk(path: pathlib.Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: pathlib.Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
