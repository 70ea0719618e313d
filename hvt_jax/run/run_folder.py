"""The folder of one run: its lock, its config, where it ran, and its numbers."""

import datetime
import errno
import fcntl
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from hvt_jax import disk
from hvt_jax.run import earlier_run, environment, first_process
from hvt_jax.settings import older

ELSEWHERE = "give another --workdir"  # what to do where a run folder cannot be written
_ORPHAN_SECONDS = 10.0


class RunFolderError(RuntimeError):
    """A run folder that cannot be used now; the message names what is in the way and the remedy."""


class RunFolder:
    """`RUN/` of one run: `config.json`, `environment.json`, `results.json`, and the paths of the rest.

    Construct it after `jax.distributed.initialize()`. Only process 0 writes and holds the lock. The lock is
    a `flock`, so the kernel frees it however the process ends; the pid, host and start time in the file are
    for the message. Where the file system has no `flock`, the pid in the file decides.

    Attributes:
      path: absolute path of the folder.
      checkpoints: folder for `checkpoint.Checkpoints`.
      diverged: folder for the state of a run that ended with exit code 3.
    """

    def __init__(self, path: str | os.PathLike, *, warn: Callable[[str], None]):
        """Create the folder and take its lock.

        Args:
          path: the folder, made if it is missing.
          warn: called with one line when the lock of a dead run is taken over.

        Raises:
          RunFolderError: if another live run holds the folder, or it cannot be written.
        """
        self.path = os.path.abspath(path)
        self.checkpoints = os.path.join(self.path, "checkpoints")
        self.diverged = os.path.join(self.path, "diverged")
        self._is_writer = first_process.is_first()
        refused = RunFolderError(f"process 0 could not take {self.path}; its own message says why")
        with disk.refusals_as(RunFolderError, self.path, ELSEWHERE):
            self._lock_file: int | None = first_process.in_first(lambda: _take_lock(self.path, warn), refused)

    def __enter__(self) -> "RunFolder":
        return self

    def close(self) -> None:
        """Free the lock; may be called twice."""
        if self._lock_file is not None:
            os.ftruncate(self._lock_file, 0)
            os.close(self._lock_file)
            self._lock_file = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_anew(self) -> list[str]:
        """Move what an earlier run left aside, before anything is written; return lines that say so.

        Raises:
          RunFolderError: if the folder cannot be written.
        """
        refused = RunFolderError(f"process 0 could not write {self.path}; its own message says why")
        with disk.refusals_as(RunFolderError, self.path, ELSEWHERE):
            line = first_process.in_first(lambda: earlier_run.move_aside(self.path), refused)
        return [line] if line else []

    def write_config(self, config: Any, restored_step: int | None = None, num_steps: int | None = None) -> None:
        """Write `config` (a ConfigDict) to `config.json`; call it after `changed_fields` was looked at.

        If a run goes on from `restored_step` with other settings, those of before stay in `config-until-<step>.json`.
        If it is at the last of `num_steps`, the file stays as it is: it says what was trained with.
        """
        if not self._is_writer:
            return
        path = os.path.join(self.path, "config.json")
        if restored_step is not None and config_changes(path, config):
            if restored_step == num_steps:
                return
            before = pathlib.Path(path).read_bytes()  # copied, so that there is a config.json at any time
            write_file(os.path.join(self.path, f"config-until-{restored_step}.json"), before)
        write_json(path, json.loads(config.to_json_best_effort()))

    def changed_fields(self, config: Any) -> list[str]:
        """Return one line per field in which `config` (a ConfigDict) differs from the folder's `config.json`.

        See `changed_fields`.
        """
        return changed_fields(self.path, config)

    def write_environment(self, seed: int) -> None:
        """Write versions, devices, git commit, `seed`, host and start time to `environment.json`.

        On resume the file describes the latest start. Environment variables are not recorded: they hold secrets.
        """
        if self._is_writer:
            write_json(os.path.join(self.path, "environment.json"), environment.describe() | {"seed": seed})

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write the numbers so far to `results.json`; non-finite ones become strings."""
        if self._is_writer:
            write_json(os.path.join(self.path, "results.json"), results)


def changed_fields(folder: str | os.PathLike, config: Any) -> list[str]:
    """Return one line per field in which `config` (a ConfigDict) differs from `config.json` in a run folder.

    A line reads `config differs: model.clip.width 96 -> 128`. Empty if nothing differs or the folder
    has no config yet; raises as `config_changes`.
    """
    changes = config_changes(os.path.join(folder, "config.json"), config)
    return [f"config differs: {name} {before} -> {after}" for name, (before, after) in changes.items()]


def config_changes(path: str | os.PathLike, config: Any) -> dict[str, tuple[str, str]]:
    """Return by field what a run's `config.json` says and what `config` (a ConfigDict) does, where they differ.

    Empty if there is no such file. Fields that came later than that run say what it did; groups of them differ from
    nothing.

    Raises:
      RunFolderError: if it is not JSON.
    """
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            before = _fields(older.complete(json.load(file)))
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}); remove it to go on with the config given") from None
    after = _fields(older.complete(json.loads(config.to_json_best_effort())))
    later = tuple(f"{name}." for name, value in before.items() if value is None and name not in after)
    return {
        name: (_shown(before, name), _shown(after, name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "absent") != after.get(name, "absent") and not f"{name}.".startswith(later)
    }


def write_json(path: str, value: Any) -> None:
    """Replace the file `path` by `value` as JSON, see `write_file`."""
    write_file(path, (json.dumps(json_safe(value), indent=1, allow_nan=False) + "\n").encode())


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file `path`, see `disk.replaced`.

    Raises:
      RunFolderError: if it cannot be written.
    """
    with disk.refusals_as(RunFolderError, path, ELSEWHERE):
        disk.write_file(path, content)


def json_safe(value: Any) -> Any:
    """Return `value` in JSON's types: numpy and JAX scalars as Python's, non-finite floats as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _take_lock(folder: str, warn: Callable[[str], None]) -> int:
    """Return the open, locked file descriptor of `folder`'s lock file."""
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while not _try_lock(lock):
        owner = _read_owner(lock)
        pid, host, started = (owner.get(key, "unknown") for key in ("pid", "host", "started"))
        # A forked child outlives its killed parent for some seconds and holds the parent's lock as long.
        if host == socket.gethostname() and not _is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        os.close(lock)
        raise RunFolderError(
            f"{folder} is in use by the run with pid {pid} on host {host}, started {started}; "
            f"stop it (kill {pid}) or give another --workdir"
        )
    if owner := _read_owner(lock):
        dead = f"the run with pid {owner.get('pid')} on host {owner.get('host')}"
        warn(f"{folder}: {dead} ended without freeing its lock; taking it over")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(owner).encode(), 0)
    return lock


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise
        owner = _read_owner(lock)  # no flock on this file system: only a pid of this host can be known to be dead
        return not owner or (owner.get("host") == socket.gethostname() and not _is_alive(owner.get("pid")))
    return True


def _read_owner(lock: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        owner = None  # empty: freed in good order
    return owner if isinstance(owner, dict) else {}


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True  # somebody else's
    except (OSError, TypeError, ValueError):
        return False
    return True


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _fields(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key in tree
        for name, value in _fields(tree[key], f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _shown(fields: dict[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"  # quotes, or an empty text would be seen as nothing
