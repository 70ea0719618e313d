"""Files that come to be whole or not at all, and a bounded cache of open ones."""

import collections
import hashlib
import pathlib
import threading
from collections.abc import Callable, Hashable


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


def file_sha256(path: pathlib.Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
