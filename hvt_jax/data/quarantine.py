"""What is said and kept of bad videos that are met while reading, without a manifest."""

import dataclasses
import json
import os

import numpy as np

from hvt_jax import disk
from hvt_jax.data.dataset import DataError, Dataset
from hvt_jax.data.problems import Problem, unpack_reason


@dataclasses.dataclass(frozen=True)
class BadVideo:
    """One bad video.

    Attributes:
      path: relative to the root of the data set.
      problem: what was wrong when it was met first.
      frames: how many of the frames wanted could be decoded then.
      step: of the run, at which it was met first.
      reason: what was wrong, in words; empty if unknown.
    """

    path: str
    problem: Problem
    frames: int
    step: int
    reason: str = ""

    def __str__(self) -> str:
        """Return e.g. "videos/X.avi: too few frames (12 could be read): truncated: 12 of 30 frames"."""
        partly = self.problem in (Problem.TOO_FEW_FRAMES, Problem.DAMAGED)
        known = f" ({self.frames} could be read)" if partly else ""
        return f"{self.path}: {self.problem}{known}" + (f": {self.reason}" if self.reason else "")

    @property
    def is_closed(self) -> bool:
        """Whether it is opened no more.

        Not after damage to some of its frames: whether a window is whole must stay a function of the window, whichever
        process has met the damage before; otherwise a resumed run, or one with more processes, would see other batches.
        """
        return self.problem not in (Problem.OK, Problem.TOO_SHORT, Problem.DAMAGED)

    @property
    def is_counted(self) -> bool:
        """Whether it counts against data.max_bad_fraction; to leave out short videos was asked for."""
        return self.problem is not Problem.TOO_SHORT


def find_bad(dataset: Dataset, batch: dict[str, np.ndarray], step: int) -> list[BadVideo]:
    """Return the bad videos of a batch that is used at `step`."""
    found = []
    for place in np.flatnonzero(batch["problem"]):
        number, problem, frames = (int(batch[name][place]) for name in ("index", "problem", "frames"))
        reason = unpack_reason(batch["reason"][place]) if "reason" in batch else ""
        found.append(BadVideo(dataset.videos[number].path, Problem(problem), frames, step, reason))
    return found


def read_quarantine(path: str, last_step: int) -> list[BadVideo]:
    """Return what a run has met up to `last_step`; nothing if there is no file.

    Raises:
      DataError: naming the row that cannot be used.
    """
    if not os.path.exists(path):
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for row, text in enumerate(file, start=1):
            try:
                fields = json.loads(text)
                problem = Problem[fields["problem"].upper().replace(" ", "_")]
                numbers, reason = (int(fields["frames"]), int(fields["step"])), str(fields.get("reason", ""))
                video = BadVideo(str(fields["path"]), problem, *numbers, reason)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise DataError(
                    f"{path}, row {row}: is no bad video; remove the file, they will be found again"
                ) from None
            if video.step <= last_step:
                found.append(video)
    return found


def write_quarantine(path: str, videos: list[BadVideo]) -> None:
    """Replace the file, one line a video.

    Raises:
      DataError: if it cannot be written.
    """
    rows = []
    for video in videos:
        fields = {**dataclasses.asdict(video), "problem": str(video.problem)}
        rows.append(json.dumps({name: value for name, value in fields.items() if name != "reason" or value}) + "\n")
    with disk.refusals_as(DataError, path, "give another --workdir"):
        disk.write_file(path, "".join(rows).encode("ascii"))
