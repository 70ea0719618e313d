"""Scalars for TensorBoard, in an event file."""

import os
import struct
import time
from collections.abc import Mapping

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

_VERSION = "brain.Event:2"


class EventFile:
    """A new event file in a folder, written as far as the system the moment `write` returns.

    tensorboardX's own writer has a thread that a full disk ends with a traceback; its queue fills then, and training
    waits for ever. Here the caller gets the error.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int):
        """Make the file; what other files in the folder hold from `first_step` on is shown no more.

        Raises:
          OSError: if it cannot be written.
        """
        os.makedirs(folder, exist_ok=True)
        # TensorBoard looks for this name, and reads files in its order. Nanoseconds: two starts within a second.
        self._file = open(os.path.join(folder, f"events.out.tfevents.{time.time_ns()}"), "xb")
        self._append(event_pb2.Event(file_version=_VERSION))
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(event_pb2.Event(step=first_step, session_log=restart))
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the finite scalars of a step, by names of letters, digits and `-_./`.

        Raises:
          OSError: if they cannot be written.
        """
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=scalars)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, event) -> None:
        """Append a record of the format of TensorFlow: length and content, each with its check sum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        self._file.write(length + sums[0] + content + sums[1])
