"""Pixels that a decoding process hands to the trainer in memory that both see, used again once the trainer is done.

A decoding process borrows a `SharedArray`, fills it and sends its `Ticket`; the trainer's `Desk` turns that into an
array. When the last user of this array is gone, one byte behind the pixels tells the process that it may have them
again. Memory that is made anew for every batch must be zeroed, mapped twice and given back by the system, which shows
beside small JPEG frames (benchmarks/RESULTS.md).

Memory has a name only until its first ticket arrives: it is mapped there and then, because its process may end before
the batch is used, and takes the names of what has not arrived with it. Where a process is killed, Python's resource
tracker removes those when the trainer ends.
"""

import contextlib
import dataclasses
import errno
import math
import os
import secrets
import threading
import weakref
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory, util
from typing import Any

import numpy as np

from hvt_jax.data.dataset import DataError

# Linux's MADV_POPULATE_WRITE: all pages at once instead of one fault each, and an error where they cannot be had,
# instead of a signal that ends the process.
_POPULATE_WRITE = 23
# The two bytes behind the pixels: whether somebody uses them, and whether the trainer has mapped them.
_IN_USE, _IS_MAPPED, _EXTRA = 0, 1, 2
NAMES = "hvt_"  # of shared memory, before the id of its process
OPEN_FILES = 2  # of a piece of shared memory, in each process that maps it
_ATTACHING = threading.Lock()


class _Memory:
    """A piece of shared memory, unmapped when nobody refers to it."""

    def __init__(self, block: shared_memory.SharedMemory, size: int):
        self.block, self.size = block, size

    def mark(self, place: int, value: int) -> None:
        self.block.buf[self.size + place] = value

    def is_marked(self, place: int) -> bool:
        return bool(self.block.buf[self.size + place])


@dataclasses.dataclass(frozen=True)
class Ticket:
    """What travels in the place of an array.

    Attributes:
      owner: the process whose memory it is.
      number: which of its memory.
      shape: of the array.
      memory: with the first ticket of a piece of memory that piece; later the desk has it.
    """

    owner: int
    number: int
    shape: tuple[int, ...]
    memory: _Memory | None

    def __reduce__(self):
        name = self.memory.block.name if self.memory else None
        return _arrive, (self.owner, self.number, self.shape, name)


def _arrive(owner: int, number: int, shape: tuple[int, ...], name: str | None) -> Ticket:
    if name is None:
        return Ticket(owner, number, shape, None)
    try:
        memory = _Memory(_attach(name), math.prod(shape))
    except FileNotFoundError:  # Grain empties its queue when all is over, and the process has ended
        return Ticket(owner, number, shape, None)
    memory.mark(_IS_MAPPED, 1)
    _remove_name(memory)  # what is mapped stays
    return Ticket(owner, number, shape, memory)


def _attach(name: str) -> shared_memory.SharedMemory:
    """Map memory of another process without telling Python's resource tracker, which knows of it from there.

    Whoever removes a name tells it so. Told of the mapping, too, it may hear of that after the end of the name, and
    call the memory leaked.
    """

    def register(known: str, kind: str) -> None:
        if known.lstrip("/") != name:  # another thread's
            before(known, kind)

    with _ATTACHING:
        before, resource_tracker.register = resource_tracker.register, register
        try:
            return shared_memory.SharedMemory(name)
        finally:
            resource_tracker.register = before


class SharedArray(np.ndarray):
    """An array, uint8, in shared memory of this process; `ticket` is what the trainer needs to see it."""

    ticket: Ticket


class Pool:
    """The shared memory of a decoding process; threads may share it."""

    def __init__(self):
        """Own nothing yet."""
        self._owned: list[_Memory] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def borrow(self, shape: tuple[int, ...]) -> SharedArray:
        """Return an array that nobody uses; it holds anything.

        Raises:
          DataError: if there is no shared memory left.
          OSError: if no more files may be open.
        """
        size = math.prod(shape)
        with self._lock:
            free = (n for n, one in enumerate(self._owned) if one.size == size and not one.is_marked(_IN_USE))
            number = next(free, len(self._owned))
            if self._is_closed:
                raise RuntimeError("the process ends; what its threads still make will not be seen")
            if number == len(self._owned):
                self._owned.append(self._make(size))
            memory = self._owned[number]
            memory.mark(_IN_USE, 1)
        array = SharedArray(shape, np.uint8, memory.block.buf)
        array.ticket = Ticket(os.getpid(), number, shape, None if memory.is_marked(_IS_MAPPED) else memory)
        return array

    def _make(self, size: int) -> _Memory:
        if not self._owned:
            util.Finalize(None, self._remove_names, exitpriority=1)
        try:
            name = f"{NAMES}{os.getpid()}_{secrets.token_hex(6)}"
            made = shared_memory.SharedMemory(name, create=True, size=size + _EXTRA)
            try:
                _populate(made)
            except OSError:
                made.unlink()
                raise
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            raise DataError(
                f"shared memory is full ({error.strerror}), a batch takes {size / 2**20:.0f} MiB; lower "
                "data.prefetch_batches or train.batch_size, give the container more (docker --shm-size), or decode "
                "in threads: data.num_workers = 0"
            ) from error
        return _Memory(made, size)

    def _remove_names(self) -> None:
        """Remove those of what has not arrived; called when the process ends."""
        with self._lock:
            self._is_closed = True
            for memory in self._owned:
                if not memory.is_marked(_IS_MAPPED):
                    _remove_name(memory)


class Desk:
    """The trainer's side: what it has mapped, kept for the next time it comes."""

    def __init__(self):
        """Know of nothing yet."""
        self._mapped: dict[tuple[int, int], _Memory] = {}

    def take_all(self, fields: dict) -> dict:
        """Return a batch with arrays in the place of its tickets."""
        return _replaced(fields, Ticket, self.take)

    def take(self, ticket: Ticket) -> np.ndarray:
        """Return the array of a ticket, uint8; its memory goes back to its owner with the last reference to it."""
        key = ticket.owner, ticket.number
        if ticket.memory is not None:
            self._mapped[key] = ticket.memory
        memory = self._mapped[key]
        array = np.ndarray(ticket.shape, np.uint8, memory.block.buf)
        # This holds the memory, so that the array outlives the desk; views hold the array.
        weakref.finalize(array, memory.mark, _IN_USE, 0).atexit = False
        return array


def tickets_for(fields: dict) -> dict:
    """Return a batch with tickets in the place of its shared arrays, which may be read by the trainer alone then."""
    return _replaced(fields, SharedArray, lambda array: array.ticket)


def _replaced(fields: dict, kind: type, by: Callable[[Any], Any]) -> dict:
    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return _replaced(value, kind, by)
        return by(value) if isinstance(value, kind) else value

    return {name: replace(value) for name, value in fields.items()}


def _remove_name(memory: _Memory) -> None:
    with contextlib.suppress(FileNotFoundError):  # at the end both sides may do so at once
        memory.block.unlink()


def _populate(memory: shared_memory.SharedMemory) -> None:
    try:
        memory.buf.obj.madvise(_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # an older kernel
            raise


POOL = Pool()  # of this process, empty in all that do not decode for another
