"""What can be wrong with a video, and the one exception that says so."""

import collections
import enum

import numpy as np

REASON_BYTES = 200  # of a reason, at most, that travels in a batch


class Problem(enum.IntEnum):
    """Why a video gave no sample; the numbers travel in batches and in logs."""

    OK = 0
    MISSING = 1
    EMPTY = 2
    UNREADABLE = 3
    NO_VIDEO_STREAM = 4
    TOO_FEW_FRAMES = 5
    TIMEOUT = 6
    TOO_LARGE = 7
    TOO_SHORT = 8
    DAMAGED = 9
    CRASHED = 10

    def __str__(self) -> str:
        """Return the name as it is written in logs and manifests."""
        return self.name.lower().replace("_", " ")


RETRIED = (str(Problem.TIMEOUT), str(Problem.CRASHED))  # it may have been the machine


def count_kinds(names: list[str]) -> dict[str, int]:
    """Return how often each kind of problem is among `names`, the commonest first, then by name."""
    return dict(sorted(collections.Counter(names).items(), key=lambda item: (-item[1], item[0])))


class VideoError(Exception):
    """A video that cannot be read.

    Attributes:
      problem: the kind of fault.
      frames: how many of the wanted frames were found.
    """

    def __init__(self, problem: Problem, reason: str, frames: int = 0):
        super().__init__(reason)
        self.problem = problem
        self.frames = frames


def pack_reason(reason: str) -> np.ndarray:
    """Return a reason, or its beginning, as uint8 [REASON_BYTES], UTF-8 filled up with zeros."""
    content = " ".join(reason.split()).encode(errors="backslashreplace")[:REASON_BYTES]
    return np.frombuffer(content.ljust(REASON_BYTES, b"\0"), np.uint8)


def unpack_reason(packed: np.ndarray) -> str:
    """Return the text that `pack_reason` was given."""
    return packed.astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="ignore")
