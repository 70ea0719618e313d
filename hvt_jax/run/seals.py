"""Seals of checkpoints: SHA-256 of every file, and which steps of a folder can be trusted.

Orbax does not notice a flipped bit (60 of 60 loaded wrong without an error), so `<step>/` counts only
together with a `manifest-<step>.json` beside it whose sizes and hashes all agree. Standard library only.
"""

import datetime
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

from hvt_jax.run.run_folder import json_safe, write_json


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or used; the message names it and the remedy."""


def seal(folder: str, step: int, record: dict[str, Any]) -> None:
    """Write the manifest of the finished folder `<folder>/<step>`, which makes the step trusted.

    Args:
      folder: the checkpoint folder.
      step: a step whose files are all written.
      record: JSON values kept in the manifest beside the hashes (metrics, tree of leaves).
    """
    root = step_path(folder, step)
    files = {name: _size_and_digest(os.path.join(root, name), sync=True) for name in _files(root)}
    saved_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    _write_manifest(folder, step, {"step": step, "saved_at": saved_at, "files": files, **record})


def add_metrics(folder: str, step: int, metrics: dict[str, float], tests: int) -> None:
    """Add to the metrics in the manifest of a sealed step; nothing happens if there is no such step.

    Metrics of other `tests` than these are forgotten.
    """
    content = read_manifest(folder, step)
    if content is not None:
        before = content["metrics"] if content.get("tests", 0) == tests else {}
        _write_manifest(folder, step, content | {"metrics": before | metrics, "tests": tests})


def _write_manifest(folder: str, step: int, content: dict[str, Any]) -> None:
    content = json_safe(content)
    write_json(manifest_path(folder, step), content | {"sha256": _digest_of_json(content)})


def read_manifest(folder: str, step: int) -> dict[str, Any] | None:
    """Return the manifest of `step`, or None if it is missing or damaged; the files are not looked at."""
    try:
        with open(manifest_path(folder, step), encoding="utf-8") as file:
            manifest = json.load(file)
        claimed = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if claimed == _digest_of_json(manifest) and manifest.get("step") == step else None


def distrust(folder: str, step: int) -> str | None:
    """Return why `step` is not to be trusted, naming the file, or None if every file agrees with its seal."""
    root, name = step_path(folder, step), os.path.basename(manifest_path(folder, step))
    if not os.path.isdir(root):
        return f"its folder {step} is missing"
    if not os.path.exists(manifest_path(folder, step)):
        return f"it is not sealed ({name} is missing; the run died while saving)"
    manifest = read_manifest(folder, step)
    if manifest is None:
        return f"{name} is damaged"
    found, sealed = set(_files(root)), manifest["files"]
    for file in sorted(found ^ sealed.keys()):
        return f"{file} is {'missing' if file in sealed else 'not in its manifest'}"
    for file, (size, digest) in sorted(sealed.items()):
        path = os.path.join(root, file)
        try:
            if os.path.getsize(path) != size:
                return f"{file} has {os.path.getsize(path)} bytes instead of {size}"
            if _size_and_digest(path)[1] != digest:
                return f"{file} differs from its SHA-256"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
    return None


def steps_in(folder: str) -> list[int]:
    """Return, ascending, every step that has a folder or a manifest."""
    matches = (re.fullmatch(r"(\d+)|manifest-(\d+)\.json", name) for name in os.listdir(folder))
    return sorted({int(match[1] or match[2]) for match in matches if match})


def choose(folder: str, step: int | None, *, rename: bool, warn: Callable[[str], None]) -> int | None:
    """Return the newest step to be trusted (or `step` itself), or None if nothing was ever saved.

    Steps that are passed over are renamed (if `rename`) and named in one `warn` line each.

    Raises:
      CheckpointError: if there are steps but none is usable; then nothing is renamed, so that the next start
        says so again and does not silently train from the beginning.
    """
    steps = steps_in(folder) if os.path.isdir(folder) else []
    if step is not None and step not in steps:
        raise CheckpointError(f"{folder} has no checkpoint of step {step}; there are {steps or 'none'}")
    passed: dict[int, str] = {}
    chosen = None
    for candidate in reversed(steps if step is None else [step]):
        reason = distrust(folder, candidate)
        if reason is None:
            chosen = candidate
            break
        passed[candidate] = reason
    # Only a run killed during its first save leaves a lone step without a seal; that run may start again.
    first_save = step is None and len(steps) == 1 and not os.path.exists(manifest_path(folder, steps[0]))
    if chosen is None and passed and not first_save:
        listed = "; ".join(f"step {bad}: {reason}" for bad, reason in passed.items())
        raise CheckpointError(
            f"no usable checkpoint in {folder} ({listed}); copy good ones there or train in a new --workdir"
        )
    if step is not None:
        passed = {newer: f"it is newer than step {step}, which was asked for" for newer in steps if newer > step}
    for bad, reason in passed.items():
        renamed = f"renamed to {set_aside(folder, bad)}, " if rename else ""
        onward = "starting from the beginning" if chosen is None else f"going on with step {chosen}"
        warn(f"checkpoint {bad} rejected: {reason}; {renamed}{onward}")
    return chosen


def retain(folder: str, latest: int, best: int, metric: str) -> None:
    """Delete sealed steps but the `latest` newest (at least one) and the `best` with the highest `metric`.

    Scores of different tests are not compared: the best of each stay.
    """
    records = {step: record for step in steps_in(folder) if (record := read_manifest(folder, step))}
    scores = {step: record["metrics"].get(metric) for step, record in records.items()}
    evaluated: dict[int, list[int]] = {}
    for step, score in scores.items():
        if isinstance(score, (int, float)):
            evaluated.setdefault(records[step].get("tests", 0), []).append(step)
    ranked = [sorted(alike, key=lambda step: (scores[step], step), reverse=True) for alike in evaluated.values()]
    kept = {step for alike in ranked for step in alike[:best]}
    for step in list(records)[: -max(1, latest)]:
        if step not in kept:
            delete(folder, step)


def set_aside(folder: str, step: int) -> str:
    """Rename `step` to `rejected-<step>`, so that the step can be saved again; return the new name.

    Of steps without a seal only the latest is kept.
    """
    name = f"rejected-{step}"
    if not os.path.exists(manifest_path(folder, step)):  # kept once only: a run that is killed often has many
        for path in glob.glob(os.path.join(glob.escape(folder), "rejected-*[0-9]")):
            if not os.path.exists(f"{path}.json"):
                shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)  # of an earlier time the step was rejected
    for source, target in ((str(step), name), (f"manifest-{step}.json", f"{name}.json")):
        if os.path.lexists(os.path.join(folder, source)):
            os.replace(os.path.join(folder, source), os.path.join(folder, target))
    return name


def delete(folder: str, step: int) -> None:
    """Delete `step`; a death in between leaves only a `deleting-<step>` for `clean`."""
    os.replace(step_path(folder, step), os.path.join(folder, f"deleting-{step}"))
    _finish_delete(folder, step)


def clean(folder: str) -> None:
    """Remove what a dead run left half written or half deleted."""
    for path in glob.glob(os.path.join(glob.escape(folder), "*.orbax-checkpoint-tmp*")):
        shutil.rmtree(path)
    for path in glob.glob(os.path.join(glob.escape(folder), "manifest-*.json.tmp")):
        os.remove(path)
    for path in glob.glob(os.path.join(glob.escape(folder), "deleting-*")):
        _finish_delete(folder, int(path.rpartition("-")[2]))


def step_path(folder: str, step: int) -> str:
    """Return the folder of `step`."""
    return os.path.join(folder, str(step))


def manifest_path(folder: str, step: int) -> str:
    """Return the file that seals `step`."""
    return os.path.join(folder, f"manifest-{step}.json")


def _finish_delete(folder: str, step: int) -> None:
    if not os.path.exists(step_path(folder, step)) and os.path.exists(manifest_path(folder, step)):
        os.remove(manifest_path(folder, step))
    shutil.rmtree(os.path.join(folder, f"deleting-{step}"))


def _files(root: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(at, name), root) for at, _, names in os.walk(root) for name in names)


def _size_and_digest(path: str, *, sync: bool = False) -> tuple[int, str]:
    with open(path, "rb") as file:
        if sync:  # sealed means on the disk, not in the page cache
            os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
