"""Checkpoints of a training state: saved in the background, sealed, restored onto any devices.

The only file that knows Orbax (its v1 interface). A state is saved as one flat mapping from a path such as
`params/levels/frame/...` to an array, so that what is on the disk does not depend on container classes.
"""

import concurrent.futures
import operator
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from hvt_jax.run import leaves as leaves_lib
from hvt_jax.run import seals
from hvt_jax.run.first_process import is_first
from hvt_jax.run.leaves import parameter_digest as parameter_digest
from hvt_jax.run.seals import CheckpointError as CheckpointError
from hvt_jax.settings import CheckpointSettings

_NOTHING, _REFUSED = -1, -2  # in place of a step, for the other processes
_LEAST_SHARED_BYTES = 2**20


class Checkpoints:
    """The checkpoints of one run in one folder.

    `<step>/` is written by Orbax in the background; then a thread hashes its files and writes `manifest-<step>.json`.
    Only steps whose files agree with their manifest are ever restored. One save runs at a time. Which steps are kept is
    decided here and not by Orbax's policies, because a step may be deleted only after a newer one is *sealed*, which
    Orbax does not know: the `keep_latest` newest sealed steps and the `keep_best` with the highest `best_metric`.

    With several processes every process makes the same calls in the same order; all share the folder, and process 0
    alone checks, seals and deletes. Leaves must be global arrays (or the same numpy on each process).
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: CheckpointSettings,
        *,
        best_metric: str,
        warn: Callable[[str], None],
        tests: int = 0,
        read_only: bool = False,
    ):
        """Open `folder`, and remove what a dead run left half written there.

        Args:
          folder: made if missing.
          settings: `keep_latest` (at least 1 is kept) and `keep_best`.
          best_metric: key of the `metrics` of a save by which it is ranked, among those of the same `tests` (videos).
          warn: called with one line when a checkpoint is rejected.
          tests: a number for the videos that metrics are of.
          read_only: look without cleaning, renaming or saving, as beside a live run.
        """
        self._folder = os.path.abspath(folder)  # Orbax fails late on a relative path
        self._warn, self._read_only, self._tests = warn, read_only, tests
        self._keep = settings.keep_latest, settings.keep_best, best_metric
        self._acts = is_first() and not read_only
        self._saved: set[int] = set()
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        if self._acts:
            os.makedirs(self._folder, exist_ok=True)
            seals.clean(self._folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            self._warn(str(error))  # the exception under way is the one to report

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Start saving `state`; waits only for the device-to-host copy and for a save still running.

        A step this object already saved is not written again; its metrics are added to.

        Args:
          step: number of updates done.
          state: any pytree of arrays; the caller may donate it as soon as this returns.
          metrics: ranked by `best_metric`; those of the step, if it was evaluated.

        Raises:
          CheckpointError: if space is short, the folder cannot be written, or the save before failed.
        """
        step, metrics = operator.index(step), dict(metrics or {})
        self.wait()
        if self._read_only:
            raise CheckpointError(f"{self._folder} was opened read-only; checkpoint {step} is not saved")
        if step in self._saved:
            self._pending = step, self._thread.submit(self._add_metrics, step, metrics)
            return
        leaves = leaves_lib.flatten(state)
        self._prepare(step, leaves)
        response = _start_saving(self._folder, step, leaves)
        record = {"metrics": metrics, "tests": self._tests, "leaves": leaves_lib.describe(leaves)}
        self._pending = step, self._thread.submit(self._finish, step, response, record)

    def poll(self) -> int | None:
        """Return the step whose save ended since the last call, else None; never waits.

        Raises:
          CheckpointError: if that save failed.
        """
        return self.wait() if self._pending is not None and self._pending[1].done() else None

    def wait(self) -> int | None:
        """Wait until no save is running; return the step sealed meanwhile, else None; raises as `poll`."""
        if self._pending is None:
            return None
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {step} in {self._folder} failed ({_reason(error)}); the steps before it are intact"
            ) from error
        self._saved.add(step)
        return step

    def close(self) -> None:
        """Wait for the save under way and end the thread; raises as `poll`."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def restore(
        self, abstract_state: Any, step: int | None = None, *, partial: bool = False
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Load the newest checkpoint whose every file agrees with its seal.

        Rejected steps are renamed to `rejected-<step>` with one warning line each, and so are steps newer than
        an explicit `step`. A first save that was never sealed is no checkpoint: the run starts at the beginning.

        Args:
          abstract_state: pytree of arrays or `jax.ShapeDtypeStruct`; leaves are placed by their `sharding`
            (one device if None), whatever the number of devices that saved them.
          step: take this step, without falling back to another.
          partial: let the checkpoint hold more than `abstract_state`, such as optimizer state.

        Returns:
          (step, state, record of the save with its `metrics` and `saved_at`), or None if nothing was saved yet.

        Raises:
          CheckpointError: if all checkpoints are bad, `step` is, or the saved tree does not fit.
        """
        self.wait()
        refusal = chosen = None
        if is_first():
            try:
                chosen = seals.choose(self._folder, step, rename=self._acts, warn=self._warn)
            except CheckpointError as error:
                refusal, chosen = error, _REFUSED
        chosen = int(multihost_utils.broadcast_one_to_all(np.int32(_NOTHING if chosen is None else chosen)))
        if chosen == _REFUSED:
            raise refusal or CheckpointError(f"process 0 refused the checkpoints in {self._folder}; see its message")
        if chosen == _NOTHING:
            return None
        record, wanted = seals.read_manifest(self._folder, chosen), leaves_lib.flatten(abstract_state)
        leaves_lib.check_fit(seals.step_path(self._folder, chosen), record["leaves"], wanted, partial)
        loaded = _load(self._folder, chosen, wanted, partial)
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [loaded[name] for name in wanted])
        self._saved.add(chosen)
        return chosen, state, {key: record[key] for key in ("step", "saved_at", "metrics")}

    def restore_before(self, abstract_state: Any, step: int) -> tuple[int, Any, dict[str, Any]] | None:
        """Load the newest checkpoint of a step below `step` that can be trusted, as `restore` does.

        Later ones are renamed to `rejected-<step>`, so that their steps can be saved again.

        Returns:
          as `restore`; None if there is no such checkpoint, and then none is left.
        """
        self.wait()
        found = _NOTHING
        if is_first():
            earlier = (known for known in reversed(seals.steps_in(self._folder)) if known < step)
            found = next((known for known in earlier if seals.distrust(self._folder, known) is None), _NOTHING)
        found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        self._saved = {known for known in self._saved if known <= found}
        if found != _NOTHING:
            return self.restore(abstract_state, found)
        for later in seals.steps_in(self._folder) if self._acts else ():
            seals.set_aside(self._folder, later)
        return None

    def _prepare(self, step: int, leaves: dict[str, Any]) -> None:
        """Check the space on the disk and move another run's checkpoint of this step out of the way."""
        needed, free = leaves_lib.bytes_on_disk(leaves), 0
        if self._acts:
            if os.path.exists(seals.step_path(self._folder, step)):
                self._warn(f"checkpoint {step} was not made by this run: now {seals.set_aside(self._folder, step)}")
            free = shutil.disk_usage(self._folder).free
        if multihost_utils.broadcast_one_to_all(np.int32(free < needed)):
            raise CheckpointError(
                f"checkpoint {step} needs {needed:,} bytes, but {self._folder} has {free:,} bytes free; free some "
                f"or lower checkpoint.keep_latest ({self._keep[0]}) and keep_best"
            )

    def _finish(self, step: int, response: ocp.AsyncResponse, record: dict[str, Any]) -> None:
        """Seal the save when it is on the disk, then delete what need not be kept; runs in the thread."""
        try:
            response.result()
        except Exception:
            if self._acts:
                seals.clean(self._folder)  # gives the space of the half-written step back
            raise
        if self._acts:
            seals.seal(self._folder, step, record)
            seals.retain(self._folder, *self._keep)

    def _add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        if self._acts and metrics:
            seals.add_metrics(self._folder, step, metrics, self._tests)
            seals.retain(self._folder, *self._keep)


def save_diverged(folder: str | os.PathLike, step: int, state: Any) -> None:
    """Save the state of a run that diverged, sealed, in a folder of its own; nothing else is touched.

    Raises:
      CheckpointError: if it cannot be written.
    """
    folder, step, leaves = os.path.abspath(folder), operator.index(step), leaves_lib.flatten(state)
    if is_first():
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(seals.step_path(folder, step)):
            seals.delete(folder, step)
    try:
        _start_saving(folder, step, leaves).result()
    except Exception as error:
        raise CheckpointError(f"the diverged state could not be saved in {folder} ({_reason(error)})") from error
    if is_first():
        seals.seal(folder, step, {"metrics": {}, "leaves": leaves_lib.describe(leaves)})


def _start_saving(folder: str, step: int, leaves: dict[str, Any]) -> ocp.AsyncResponse:
    context = ocp.Context()
    # Made in the background, a folder that cannot be made leaves threads that hold up the exit for 20 minutes.
    context.asynchronous.create_directories_asynchronously = False
    # Devices that hold the same array share its writing, for which a program is compiled for every shape and device.
    context.array.saving.min_slice_bytes_for_replica_parallel = _LEAST_SHARED_BYTES
    try:
        with context:
            return ocp.save_async(seals.step_path(folder, step), leaves_lib.savable(leaves))
    except Exception as error:
        raise CheckpointError(f"checkpoint {step} cannot be written to {folder} ({_reason(error)})") from error


def _load(folder: str, step: int, wanted: dict[str, Any], partial: bool) -> dict[str, Any]:
    """Return the leaves named in `wanted`, each of the kind and placement it has there."""
    targets = {name: leaves_lib.placed(leaf) for name, leaf in wanted.items() if leaf.size}
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    with context:
        loaded = ocp.load(seals.step_path(folder, step), targets)
    return loaded | {name: leaves_lib.empty(leaf) for name, leaf in wanted.items() if not leaf.size}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
