"""Files that are there whole or not at all; and what it means for the user when the system refuses one, in one line."""

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# The disk, its rights or a limit of the system. Others, such as "bad file descriptor", are mistakes of the program,
# whose traceback must be seen.
_OF_THE_SYSTEM = _FULL | _FORBIDDEN
_TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}
# Something else has the name of what is to be written: a file where a folder should be, or the other way round.
_OF_THE_SYSTEM |= {errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
_OF_THE_SYSTEM |= {errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP} | _TOO_MANY_OPEN


def is_refusal(error: OSError) -> bool:
    """Return whether the system refused, and not the program was wrong."""
    return error.errno in _OF_THE_SYSTEM


def explain(error: OSError, path: str | os.PathLike | None, elsewhere: str, what: str = "written") -> str:
    """Return `F cannot be written: No space left on device; free some space there, or ELSEWHERE`.

    Args:
      error: the refusal.
      path: the file or folder it is about; what `error` names, if None.
      elsewhere: what to do where neither space nor rights can be had.
      what: was to be done with it.
    """
    first = ""
    if error.errno in _TOO_MANY_OPEN:
        remedy = "raise the limit with `ulimit -n 4096`, or lower data.num_workers or data.prefetch_batches"
        return f"{error.strerror}; {remedy}"
    if error.errno in _FULL:
        first = "free some space there, or "
    elif error.errno in _FORBIDDEN:
        first = "make it writable, or "
    name = os.fsdecode(path or error.filename or "a file")
    return f"{name} cannot be {what}: {error.strerror or error}; {first}{elsewhere}"


@contextlib.contextmanager
def refusals_as(kind: type[Exception], path: str | os.PathLike, elsewhere: str) -> Iterator[None]:
    """Turn every OSError of a body that does nothing but write `path` into a `kind` of one line."""
    try:
        yield
    except OSError as error:
        raise kind(explain(error, path, elsewhere)) from error


@contextlib.contextmanager
def replaced(path: str | os.PathLike, *, sync: bool = True) -> Iterator[pathlib.Path]:
    """Give a path to write a file to, which takes the place of `path` at the end and is removed on an error.

    A reader sees the old file or the new one, never a part; with `sync` a power cut leaves one of them, too. What an
    interrupted write left behind is removed first: were it a link, the file at its end would be overwritten.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.unlink(missing_ok=True)
        yield unfinished
        if sync:
            sync_to_disk(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if sync:
        with contextlib.suppress(OSError):  # not every folder, nor every file system, lets one; the file is there
            sync_to_disk(path.parent)


@contextlib.contextmanager
def locked(
    folder: str | os.PathLike, kind: type[Exception], *, wait: bool = False, elsewhere: str = "name another --out"
) -> Iterator[None]:
    """Keep others that lock `folder`, made if it is missing, off it; the system ends a lock with its process.

    The folder may be renamed or removed meanwhile. A file system without such locks goes without.

    Args:
      folder: that is written to.
      kind: raised, with one line, if another process holds it or takes its place.
      wait: for the other process, instead.
      elsewhere: what else to do, for the message.
    """
    with refusals_as(kind, folder, elsewhere):
        os.makedirs(folder, exist_ok=True)
    busy = kind(f"{os.fspath(folder)}: another process is at work there; wait for its end, or {elsewhere}")
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise busy from None
        except OSError:  # as on some network file systems
            pass
        # What was opened may be done and gone: then the lock is one on nothing.
        if not os.path.exists(folder) or not os.path.samestat(os.stat(folder), os.fstat(handle)):
            raise busy
        yield
    finally:
        os.close(handle)


def write_file(path: str | os.PathLike, content: bytes, *, sync: bool = True) -> None:
    """Replace the file `path`, see `replaced`."""
    with replaced(path, sync=sync) as unfinished:
        unfinished.write_bytes(content)


def sync_to_disk(path: pathlib.Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
