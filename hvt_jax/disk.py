"""What it means for the user when the system refuses a file: one line with the file, the reason and the remedy."""

import contextlib
import errno
import os
from collections.abc import Iterator

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# The disk, its rights or a limit of the system. Others, such as "bad file descriptor", are mistakes of the program,
# whose traceback must be seen.
_OF_THE_SYSTEM = _FULL | _FORBIDDEN
_TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}
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
