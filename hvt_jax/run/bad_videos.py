"""The bad videos that a run has met: named, written down, opened no more, and counted against the limit.

`RUN/quarantine.jsonl` has a line for each. A resumed run begins with those met up to the step it resumes at, so that
its numbers are those of a run that was never interrupted.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from hvt_jax.data import manifest, quarantine
from hvt_jax.data.dataset import Dataset
from hvt_jax.data.problems import REASON_BYTES, Problem, pack_reason, unpack_reason
from hvt_jax.data.quarantine import BadVideo
from hvt_jax.run.first_process import is_first

FILE_NAME = "quarantine.jsonl"


class BadVideos:
    """Bad videos of the splits of one run.

    Attributes:
      excess: one line if there are more than data.max_bad_fraction allows, else empty. The same in all processes: it
        changes with `share` alone where there are several.
    """

    def __init__(self, folder: str, datasets: tuple[Dataset, ...], max_fraction: float, restored_step: int | None):
        """Read what a run in `folder` had met by `restored_step`; without one, nothing.

        Raises:
          DataError: if the file that is there is damaged.
        """
        self._path = os.path.join(folder, FILE_NAME)
        self._datasets, self._max_fraction = datasets, max_fraction
        self._paths = sorted({video.path for dataset in datasets for video in dataset.videos})
        self._found: dict[str, BadVideo] = {}
        self._shared: set[str] = set()
        self.excess = ""
        if restored_step is not None:
            known = set(self._paths)  # the manifest may leave some out by now
            for video in quarantine.read_quarantine(self._path, restored_step):
                if video.path in known:
                    self._add(video)
            self._check_share()

    def __len__(self) -> int:
        return len(self._found)

    def count(self, step: int) -> int:
        """Return how many were met up to `step`; metrics are written late, when more may be known."""
        return sum(video.step <= step for video in self._found.values())

    @property
    def lines(self) -> list[str]:
        """One line for each, sorted."""
        return sorted(map(str, self._found.values()))

    def note(self, dataset: Dataset, batch: dict[str, np.ndarray], step: int) -> list[str]:
        """Take in the bad videos of a batch that is used at `step`; return a line for each new one."""
        new = [str(video) for video in quarantine.find_bad(dataset, batch, step) if self._add(video)]
        if new:
            self._write()
            if jax.process_count() == 1:
                self._check_share()
        return new

    def share(self) -> None:
        """Let every process know what each has met; all must call it at the same step."""
        if jax.process_count() == 1:
            return
        count, places = len(self), {path: place for place, path in enumerate(self._paths)}
        unshared = [video for video in self._found.values() if video.path not in self._shared]
        most = int(multihost_utils.process_allgather(np.int32(len(unshared))).max())
        numbers, reasons = np.zeros((most, 4), np.int32), np.zeros((most, REASON_BYTES), np.uint8)
        for row, video in enumerate(unshared):
            numbers[row] = places[video.path], video.problem, video.frames, video.step
            reasons[row] = pack_reason(video.reason)
        gathered = multihost_utils.process_allgather((numbers, reasons)) if most else (numbers[None], reasons[None])
        for table, texts in zip(*gathered, strict=True):
            for row in np.flatnonzero(table[:, 1]):
                place, problem, frames, step = map(int, table[row])
                self._add(BadVideo(self._paths[place], Problem(problem), frames, step, unpack_reason(texts[row])))
        self._shared |= self._found.keys()
        if len(self) > count:
            self._write()
        self._check_share()

    def _add(self, video: BadVideo) -> bool:
        """Keep a video and return whether it was unknown; the splits open it no more."""
        if video.is_closed:
            for dataset in self._datasets:
                dataset.quarantine[video.path] = int(video.problem), video.frames
                dataset.reasons[video.path] = video.reason
        if video.path in self._found:
            return False
        self._found[video.path] = video
        return True

    def _write(self) -> None:
        if is_first():
            quarantine.write_quarantine(self._path, list(self._found.values()))

    def _check_share(self) -> None:
        bad = sorted(str(video) for video in self._found.values() if video.is_counted)
        total = len(self._paths)
        if manifest.are_too_many(len(bad), total, self._max_fraction):
            self.excess = (
                f"{len(bad)} of {total} videos are bad, {len(bad) / total:.1%}, more than data.max_bad_fraction = "
                f"{self._max_fraction:g}: {manifest.shorten(bad)}; all are in {self._path}; repair them, or let "
                "`python -m hvt_jax scan` name them and training leaves them out"
            )
