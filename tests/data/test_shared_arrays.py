"""Memory that a decoding process and the trainer share is used again, never too early, and leaves no name behind."""

import errno
import pickle
import types
from multiprocessing import resource_tracker, shared_memory

import numpy as np
import pytest

from hvt_jax.data import shared_arrays
from hvt_jax.data.dataset import DataError


@pytest.fixture
def pool():
    pool = shared_arrays.Pool()
    yield pool
    pool._remove_names()


def _sent(array):
    """Return what the trainer gets: a ticket crosses between processes as a pickle."""
    return pickle.loads(pickle.dumps(shared_arrays.tickets_for({"video": array})))["video"]


def test_memory_comes_back_with_the_last_view_of_it(pool):
    desk = shared_arrays.Desk()
    first = pool.borrow((2, 3))
    first[...] = 7
    array = desk.take(_sent(first))
    view = np.asarray(array)[1:].reshape(3, 1).view(np.ndarray)
    del array, first
    second = pool.borrow((2, 3))
    second[...] = 9
    assert second.ticket.number == 1 and (view == 7).all()
    del view
    third = pool.borrow((3, 2))
    third[...] = 5
    assert third.ticket.number == 0
    assert (desk.take(_sent(third)) == 5).all() and (desk.take(_sent(second)) == 9).all()
    assert pool.borrow((3, 3)).ticket.number == 2  # another size


def test_an_array_outlives_the_desk_and_the_process_that_made_it(pool):
    """Even where the process ends between the arrival of the ticket and its use."""
    made = pool.borrow((4, 5))
    made[...] = 6
    ticket, desk = _sent(made), shared_arrays.Desk()
    pool._remove_names()
    array = desk.take(ticket)
    del desk, made
    assert (array == 6).all()


def test_names_go_when_they_are_mapped_or_when_the_process_ends(pool):
    arrays = pool.borrow((2, 2)), pool.borrow((2, 2))
    taken, left = (array.ticket.memory.block.name for array in arrays)
    shared_memory.SharedMemory(taken).close()
    ticket = _sent(arrays[0])
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(taken)
    shared_memory.SharedMemory(left).close()
    pool._remove_names()
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(left)
    assert ticket.shape == (2, 2)
    with pytest.raises(RuntimeError, match="the process ends"):  # a thread that still decodes must leave none behind
        pool.borrow((2, 2))


def test_both_sides_may_remove_a_name_at_once(pool, monkeypatch):
    sent = pickle.dumps(pool.borrow((2, 2)).ticket)
    mark = shared_arrays._Memory.mark

    def slowly(memory, place, value):  # the process ends between the arrival of its ticket and the mark
        monkeypatch.setattr(shared_arrays._Memory, "mark", mark)
        pool._remove_names()
        mark(memory, place, value)

    monkeypatch.setattr(shared_arrays._Memory, "mark", slowly)
    assert shared_arrays.Desk().take(pickle.loads(sent)).shape == (2, 2)


def test_the_resource_tracker_hears_of_a_name_once_and_of_its_end_once(monkeypatch):
    """Also where the process ends while its ticket arrives, and the trainer is told last."""
    told, pool = [], shared_arrays.Pool()
    memory = shared_memory.SharedMemory

    def attach(*arguments, **named):
        block = memory(*arguments, **named)
        if not named:  # that of the trainer
            pool._remove_names()
        return block

    for name in ("register", "unregister"):
        keep = getattr(resource_tracker, name)
        monkeypatch.setattr(
            resource_tracker, name, lambda *names, n=name, k=keep: (told.append((n, names[0])), k(*names))
        )
    array, gone = pool.borrow((2, 2)), pool.borrow((2, 2))
    sent = pickle.dumps(array.ticket)
    monkeypatch.setattr(shared_arrays.shared_memory, "SharedMemory", attach)
    assert shared_arrays.Desk().take(pickle.loads(sent)).shape == (2, 2)
    names = [f"/{one.ticket.memory.block.name}" for one in (array, gone)]
    assert sorted(told) == sorted((what, name) for name in names for what in ("register", "unregister"))


def test_only_shared_arrays_travel_as_tickets(pool):
    shared, plain = pool.borrow((1, 2)), np.zeros(3)
    sent = shared_arrays.tickets_for({"video": {"one": shared, "two": plain}, "label": plain})
    assert sent["video"]["one"] is shared.ticket and sent["video"]["two"] is plain and sent["label"] is plain
    taken = shared_arrays.Desk().take_all(pickle.loads(pickle.dumps(sent)))
    assert type(taken["video"]["one"]) is np.ndarray and (taken["label"] == plain).all()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_full_shared_memory_is_told_with_what_helps(pool, monkeypatch, number):
    class Full(shared_memory.SharedMemory):
        @property
        def buf(self):
            def madvise(_):
                raise OSError(number, "Cannot allocate memory")

            return types.SimpleNamespace(obj=types.SimpleNamespace(madvise=madvise))

        def unlink(self):
            removed.append(self.name)
            super().unlink()

    removed = []
    monkeypatch.setattr(shared_arrays.shared_memory, "SharedMemory", Full)
    with pytest.raises(DataError, match="shared memory is full .*a batch takes 2 MiB; lower data.prefetch") as caught:
        pool.borrow((2, 1024, 1024))
    assert len(removed) == 1
    # It crosses from the process that decodes to the trainer.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_older_kernel_gets_its_pages_as_they_are_written(pool, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_POPULATE_WRITE", 9999)
    array = pool.borrow((2, 2))
    array[...] = 3
    assert (shared_arrays.Desk().take(_sent(array)) == 3).all()
