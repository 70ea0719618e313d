"""Scalars for TensorBoard, in an event file."""

import os
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

_FLUSH_SECONDS = 10.0  # flushing waits for the disk: not in every step that is logged


class EventFile:
    """A new event file in a folder, on the disk within seconds.

    `tensorboardX.SummaryWriter` has a thread that a full disk ends with a traceback; its queue fills then, and
    training waits for ever. With the writer inside it the caller gets the error.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int):
        """Make the file; what other files in the folder hold from `first_step` on is shown no more.

        Raises:
          OSError: if it cannot be written.
        """
        os.makedirs(folder, exist_ok=True)
        # The suffix keeps two starts within a second apart.
        self._writer = EventsWriter(os.path.join(folder, "events"), filename_suffix=f".{time.time_ns()}")
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(event_pb2.Event(step=first_step, session_log=restart))
        self._writer.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the finite scalars of a step, by names of letters, digits and `-_./`.

        Raises:
          OSError: if they, or some before them, cannot be written.
        """
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=scalars)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left and close the file.

        Raises:
          OSError: if it cannot be written.
        """
        self._writer.close()

    def _append(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
