"""What stands beside a converted shard: what it was made from, how, its hashes, and the videos that failed."""

import dataclasses
import json
import os
import pathlib

from hvt_jax.data import storages
from hvt_jax.data.dataset import DataError, Video
from hvt_jax.data.manifest import are_too_many
from hvt_jax.data.problems import RETRIED, count_kinds
from hvt_jax.data.storages.shards import file_sha256, index_path
from hvt_jax.tools.conversion import Encoding

_FORMAT = 2  # raise it when equal options give other bytes
_MAX_BYTES = 1 << 30
_FIELDS = ("sha256", "index_sha256", "bytes", "videos", "failures")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is equal for all shards of a conversion.

    Attributes:
      root: folder of the videos.
      out: folder of the storage.
      storage: one of `storages.WRITABLE`.
      num_shards: how many shards there are.
      encoding: what becomes of the frames.
      timeout_seconds: what each thousand frames of a video may take.
    """

    root: str
    out: str
    storage: str
    num_shards: int
    encoding: Encoding
    timeout_seconds: float


@dataclasses.dataclass(frozen=True)
class Shard:
    """The videos of one shard, without labels, and the paths they are stored under."""

    number: int
    videos: tuple[tuple[Video, str], ...]


def report_path(shard: pathlib.Path) -> pathlib.Path:
    """Return where the report of a shard stands."""
    return shard.with_name(shard.name.split(".")[0] + ".report.json")


def made_from(spec: Spec, shard: Shard) -> dict:
    """Return options, and for each video source, segment, stored path, bytes and time of change, as JSON has them."""
    sources = []
    for video, name in shard.videos:
        try:
            status = os.stat(f"{spec.root}/{video.path}")
            state = status.st_size, status.st_mtime_ns
        except (OSError, ValueError):
            state = 0, 0
        sources.append([video.path, video.start_seconds, video.end_seconds, name, *state])
    content = {"format": _FORMAT, "storage": spec.storage, "encoding": dataclasses.asdict(spec.encoding)}
    return json.loads(json.dumps({**content, "sources": sources}))


def read_report(path: pathlib.Path) -> dict | None:
    """Return a report, None if there is none or it is damaged; it is this program's own, and written whole."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        report = json.loads(path.read_text(encoding="ascii"))
        return report if all(field in report for field in _FIELDS) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def valid_report(path: pathlib.Path, storage: str, expected: dict) -> dict | None:
    """Return the report of the shard `path` if nothing has to be done for it.

    Options, sources and bytes must be those of the report. A source that is gone could not be converted again, so what
    was made from it stays. Videos that took too long or crashed are tried again.
    """
    report = read_report(report_path(path))
    if report is None or any(problem in RETRIED for _, problem, _ in report["failures"]):
        return None
    before = {tuple(source[:4]): source for source in report.get("sources", ())}
    sources = [source if source[4:] != [0, 0] else before.get(tuple(source[:4])) for source in expected["sources"]]
    if {**expected, "sources": sources} != {name: report.get(name) for name in expected}:
        return None
    try:
        hashes = file_sha256(index_path(path)), storages.hash_shard(storage, path)
    except (OSError, DataError):
        return None
    return report if hashes == (report["index_sha256"], report["sha256"]) else None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion has made.

    Attributes:
      videos: that are in the storage.
      frames: of them.
      bytes_before: of the files that they come from.
      bytes_after: of the shards; in a storage of frames, of the frames.
      failures: (source, problem, reason) of the others.
      kinds: how many there are of each problem, the commonest first.
      too_many: whether there are more than data.max_bad_fraction allows.
    """

    videos: int
    frames: int
    bytes_before: int
    bytes_after: int
    failures: tuple[tuple[str, str, str], ...]
    kinds: dict[str, int]
    too_many: bool


def summarise(reports: list[dict], max_bad_fraction: float) -> Summary:
    """Count what is in the reports of all shards."""
    failures, sizes = [], {}
    for report in reports:
        sources = {source[3]: source for source in report["sources"]}
        sizes |= {source[0]: source[4] for source in report["sources"]}
        failures += [(sources[name][0], problem, reason) for name, problem, reason in report["failures"]]
    names = [problem for _, problem, _ in failures]
    videos = [frames for report in reports for _, frames in report["videos"]]
    after = sum(report["bytes"] for report in reports)
    too_many = are_too_many(len(failures), len(failures) + len(videos), max_bad_fraction)
    return Summary(
        len(videos), sum(videos), sum(sizes.values()), after, tuple(sorted(failures)), count_kinds(names), too_many
    )
