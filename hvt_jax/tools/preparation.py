"""Convert a data set to a storage: `make_plan` cuts it into shards, an engine calls `process_shard` for each.

    OUT/shard-00003-of-00016.h5             the shard, see `storages`
    OUT/shard-00003-of-00016.index.json     its videos
    OUT/shard-00003-of-00016.report.json    what it was made from and how, hashes, failures; written last
    OUT/prepared.json                       splits and labels, see `listing`; written when all shards are there

A shard whose report, options, source files and bytes agree is left as it is, so an interrupted conversion goes on where
it stopped. Bytes depend on videos and options alone, never on the engine or on how many work.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator

from hvt_jax import disk
from hvt_jax.data import catalog, listing, storages
from hvt_jax.data.dataset import DataError, Dataset, SafeFolder, Video
from hvt_jax.data.problems import Problem
from hvt_jax.data.storages.shards import file_sha256, index_path
from hvt_jax.settings import DataSettings
from hvt_jax.tools import conversion, subprocess_pool
from hvt_jax.tools import preparation_reports as reports
from hvt_jax.tools.conversion import Encoding, Failure
from hvt_jax.tools.preparation_reports import Shard, Spec

LOCK_NAME = "prepare.lock"
_VIDEOS_PER_SHARD = 32  # what is lost when a worker dies; beyond `_MOST_SHARDS` more
_FEWEST_SHARDS, _MOST_SHARDS = 8, 1024
_SHARD_NAME = re.compile(r"shard-\d{5,}-of-(\d{5,})\..*json")

OnVideo = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is to be done: both splits as the catalog gives them, and their videos in shards."""

    datasets: dict[str, Dataset]
    spec: Spec
    shards: tuple[Shard, ...]


def check_options(storage: str, encoding: Encoding) -> None:
    """Raise a `DataError` for options that cannot be met."""
    writable = ", ".join(storages.WRITABLE)
    if storage == "tfds":
        raise DataError(f"--storage=tfds is read-only, its data sets are made by their own builders; use {writable}")
    if storage not in storages.WRITABLE:
        raise DataError(f"--storage={storage} cannot be written; use one of {writable}")
    if encoding.content not in ("jpeg", "mp4"):
        raise DataError(f"--content={encoding.content}, but must be jpeg or mp4")
    if encoding.content == "mp4" and storage != "array_record":
        raise DataError(f"--content=mp4 needs --storage=array_record; {storage} holds --content=jpeg only")
    numbers = {"short_side": (0, 8192), "quality": (1, 100), "crf": (0, 51), "group": (1, 100_000)}
    values = [(name, getattr(encoding, name), *limits) for name, limits in numbers.items()]
    for name, value, low, high in values + [("crop", side, 1, 8192) for side in encoding.crop or ()]:
        if not low <= value <= high:
            raise DataError(f"--{name}={value}, but must be from {low} to {high}")


def make_plan(settings: DataSettings, storage: str, out: pathlib.Path, encoding: Encoding, num_shards: int) -> Plan:
    """Return what is to be done to convert the data set of `settings`, both splits.

    Args:
      settings: the data set; videos that its manifest names as bad are left out.
      storage: one of `storages.WRITABLE`.
      out: folder to write.
      encoding: what becomes of the frames.
      num_shards: 0 = as many as there are in `out` already, or else as suit the number of videos.

    Raises:
      DataError: if the data set, the options or the folder cannot be used.
    """
    check_options(storage, encoding)
    raw = dataclasses.replace(settings, storage="raw", storage_root="")
    datasets = {split: catalog.load_dataset(raw, split) for split in listing.SPLITS}
    sources = {listing.source_of(video) for dataset in datasets.values() for video in dataset.videos}
    names = listing.stored_names(sorted(sources))
    count = _count_shards(out, storage, num_shards, len(names))
    root = datasets["train"].root.resolve()
    spec = Spec(str(root), str(out.resolve()), storage, count, encoding, settings.video_timeout_seconds)
    videos: list[list[tuple[Video, str]]] = [[] for _ in range(count)]
    for (path, start, end), name in names.items():
        videos[_shard_of(path, count)].append((Video(path, (), None, start, end), name))
    shards = tuple(Shard(number, tuple(members)) for number, members in enumerate(videos))
    return Plan(datasets, spec, shards)


def _shard_of(path: str, count: int) -> int:
    digest = hashlib.sha256(os.fsencode(path)).digest()  # `hash` differs from process to process
    return int.from_bytes(digest[:8], "big") % count


def _count_shards(out: pathlib.Path, storage: str, asked: int, num_videos: int) -> int:
    """Return the number of shards; those that `out` has must agree with it."""
    there = {int(match[1]) for match in map(_SHARD_NAME.fullmatch, os.listdir(out)) if match} if out.is_dir() else set()
    suited = min(max(_FEWEST_SHARDS, -(-num_videos // _VIDEOS_PER_SHARD)), _MOST_SHARDS)
    count = asked or (min(there) if there else suited)
    if there - {count}:
        raise DataError(f"{out}: holds shards of {min(there - {count})}, not of {count}; name a new folder with --out")
    for path in out.glob("shard-*.report.json"):
        made = (reports.read_report(path) or {}).get("storage", storage)
        if made != storage:
            raise DataError(f"{out}: holds shards of {made!r}, not of {storage}; name a new folder with --out")
        break
    return count


@contextlib.contextmanager
def locked(out: pathlib.Path) -> Iterator[None]:
    """Make the folder `out` and keep other conversions off it.

    Raises:
      DataError: if it holds anything but a conversion, one is at work in it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if os.listdir(out) and not (out / LOCK_NAME).exists():
            raise DataError(f"{out}: is not empty and holds no conversion; name a new folder with --out")
        with open(out / LOCK_NAME, "a") as file:
            with contextlib.suppress(ImportError):  # Windows
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise DataError(f"{out}: another conversion is at work there; wait for its end") from None
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror}; name another folder with --out") from error


def process_shard(spec: Spec, shard: Shard, on_video: OnVideo = lambda: None) -> dict:
    """Convert the videos of one shard, unless it is there already, and return its report.

    Calling it again, or after it was killed, gives the same bytes. Each video is decoded in a child process with limits
    of time and memory; one that fails is in the report and costs only itself.

    Args:
      spec: of the conversion.
      shard: what to convert.
      on_video: called after each video; what it raises ends the shard without a trace.

    Raises:
      DataError: if the shard cannot be written.
    """
    path = storages.shard_path(spec.storage, pathlib.Path(spec.out), shard.number, spec.num_shards)
    made_from = reports.made_from(spec, shard)
    if (report := reports.valid_report(path, spec.storage, made_from)) is not None:
        for _ in shard.videos:
            on_video()
        return report
    try:
        for stale in (reports.report_path(path), index_path(path)):
            stale.unlink(missing_ok=True)
        return _write(path, spec, shard, made_from, on_video)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make room, or name another --out, and run again") from error


def _write(path: pathlib.Path, spec: Spec, shard: Shard, made_from: dict, on_video: OnVideo) -> dict:
    videos, failures, payload = [], [], 0

    def converted() -> Iterator[storages.EncodedVideo]:
        nonlocal payload
        for (_, name), outcome in zip(shard.videos, _convert(spec, shard), strict=True):
            on_video()
            if isinstance(outcome, Failure):
                failures.append([name, outcome.problem, outcome.reason])
                continue
            payload += len(outcome.mp4) + sum(map(len, outcome.jpegs))
            videos.append([name, outcome.num_frames])
            yield outcome

    with contextlib.closing(converted()) as encoded:
        summary = storages.write_shard(spec.storage, path, encoded)
    report = {
        **made_from,
        "sha256": summary.sha256,
        "index_sha256": file_sha256(index_path(path)),
        "bytes": payload if spec.storage == "frames" else path.stat().st_size,
        "videos": videos,
        "failures": failures,
    }
    with disk.replaced(reports.report_path(path)) as unfinished:
        unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")
    return report


def _convert(spec: Spec, shard: Shard) -> Iterator[storages.EncodedVideo | Failure]:
    """Yield what becomes of each video, in order."""
    safe = SafeFolder(pathlib.Path(spec.root))
    against = [safe.reason_against(video.path) for video, _ in shard.videos]
    files = [f"{spec.root}/{video.path}" for video, _ in shard.videos]
    tasks = [
        conversion.Task("" if reason else file, video, name, spec.timeout_seconds, spec.encoding)
        for (video, name), file, reason in zip(shard.videos, files, against, strict=True)
    ]
    limits = subprocess_pool.Limits(spec.timeout_seconds, conversion.MEMORY_BYTES)
    # One child, so that outcomes come in order; many shards are at work at a time.
    with contextlib.closing(subprocess_pool.run(conversion.convert_video, tasks, workers=1, limits=limits)) as outcomes:
        for position, outcome in outcomes:
            if against[position]:
                outcome = Failure(str(Problem.MISSING), against[position])
            if isinstance(outcome, subprocess_pool.Lost):
                outcome = Failure(str(Problem.TIMEOUT if outcome.timed_out else Problem.CRASHED), outcome.reason)
            yield outcome


def finish(plan: Plan, settings: DataSettings) -> list[dict]:
    """Write the listing of a conversion whose shards are all there, and return their reports.

    Raises:
      DataError: if a shard is missing.
    """
    spec, found, stored = plan.spec, [], {}
    for shard in plan.shards:
        path = storages.shard_path(spec.storage, pathlib.Path(spec.out), shard.number, spec.num_shards)
        report = reports.read_report(reports.report_path(path))
        if report is None:
            raise DataError(f"{path}: was not written; is {spec.out} a folder that all workers share? Run again")
        frames = dict(report["videos"])
        problems = {name: f"{problem}: {reason}" for name, problem, reason in report["failures"]}
        for video, name in shard.videos:
            stored[listing.source_of(video)] = listing.Stored(name, frames.get(name, 0), problems.get(name, ""))
        found.append(report)
    listing.write_listing(pathlib.Path(spec.out), settings, spec.storage, plan.datasets, stored)
    return found
