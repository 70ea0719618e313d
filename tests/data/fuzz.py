"""Damage done on purpose to good videos, the same for the same seed; what scan, conversion and training make of it."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from hvt_jax.data import pipeline
from hvt_jax.data.dataset import Dataset, Video
from hvt_jax.data.manifest import Entry
from hvt_jax.data.problems import Problem
from hvt_jax.settings import DataSettings
from hvt_jax.tools import digits_files, preparation, preparation_engines, preparation_reports, scanning
from hvt_jax.tools.conversion import Encoding

CLIPS = pathlib.Path(__file__).parents[1] / "clips"
SECONDS_PER_BATCH = 120.0  # far beyond the limit of a video: what takes longer hangs
_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif", ".mpg", ".ts")
_ODD_NAMES = ("-rf", "a b", "$(id)", ";id", "naïve 映画", "%d", "file:x", "pipe:0", "x" * 200, "~", "a\\b")

Mutation = Callable[[bytes, np.random.Generator], bytes]


def _flip(content: bytes, rng: np.random.Generator, start: int, end: int) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(start, max(start + 1, min(end, len(content))), rng.integers(1, 40)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _block(content: bytes, rng: np.random.Generator, fill: Callable[[int], bytes]) -> bytes:
    size = int(rng.integers(1, max(2, len(content) // 10)))
    start = int(rng.integers(0, len(content) - size))
    return content[:start] + fill(size) + content[start + size :]


MUTATIONS: dict[str, Mutation] = {
    "bits flipped": lambda content, rng: _flip(content, rng, 0, len(content)),
    "bits of the header flipped": lambda content, rng: _flip(content, rng, 0, 2000),
    "bits of the end flipped": lambda content, rng: _flip(content, rng, len(content) - 2000, len(content)),
    "truncated": lambda content, rng: content[: int(rng.integers(1, len(content)))],
    "beginning lost": lambda content, rng: content[int(rng.integers(1, len(content))) :],
    "block of zeros": lambda content, rng: _block(content, rng, bytes),
    "block of noise": lambda content, rng: _block(content, rng, rng.bytes),
    "garbage header": lambda content, rng: rng.bytes(int(rng.integers(8, 600))) + content[600:],
    "grown": lambda content, rng: content + content[: int(rng.integers(1, len(content)))] + rng.bytes(500),
    "empty": lambda content, rng: b"",
    "wrong suffix": lambda content, rng: content,
    "renamed": lambda content, rng: content,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
      path: of the video, below the folder of its mutation.
      entry: what the scan says.
      problem: what the training loader says; None if the loader crashed or hung first.
      is_whole: whether the loader gave a sample.
      failure: why it could not be converted, empty if it was; None if the conversion lost it.
    """

    path: str
    entry: Entry
    problem: Problem | None
    is_whole: bool
    failure: str | None

    @property
    def mutation(self) -> str:
        return self.path.partition("/")[0]


def make_cases(root: pathlib.Path, cases: int, seed: int) -> list[str]:
    """Write `cases` damaged videos below `root`, a folder for each mutation in turn; return their paths."""
    sources = [path for path in sorted(CLIPS.iterdir()) if path.suffix != ".md"]
    for codec in digits_files.CODECS:
        digits_files.make_digits(root / f".{codec}", digits_files.DigitsSpec(16, 64, codec, seed))
        sources += sorted((root / f".{codec}" / "videos").rglob("*.*"))[:2]
    paths = []
    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        mutation = list(MUTATIONS)[case % len(MUTATIONS)]
        source = sources[rng.integers(len(sources))]
        name, suffix = f"{case}_{source.stem.strip('-')}", source.suffix
        if mutation == "wrong suffix":
            suffix = str(rng.choice([other for other in _SUFFIXES if other != suffix]))
        if mutation == "renamed":
            name = f"{_ODD_NAMES[rng.integers(len(_ODD_NAMES))]}{case}"
        path = root / mutation / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MUTATIONS[mutation](source.read_bytes(), rng))
        paths.append(path.relative_to(root).as_posix())
    return paths


def scan_cases(root: pathlib.Path, settings: DataSettings) -> dict[str, Entry]:
    """Return what a scan of the folder says, by path."""
    settings = dataclasses.replace(settings, name="folder", root=str(root), label="")
    return {entry.path: entry for entry in scanning.scan(settings, root / "manifest.jsonl", lambda done, total: None)}


def load_cases(root: pathlib.Path, paths: list[str], settings: DataSettings) -> dict[str, tuple[Problem, bool]]:
    """Return (problem, whether valid) for each path that an epoch of training delivers before it crashes or hangs."""
    dataset = Dataset(root, tuple(Video(path, (0,)) for path in paths), {"class": ("all",)})
    batch_size = next(size for size in (10, 8, 6, 5, 4, 3, 2, 1) if len(paths) % size == 0)
    batches = pipeline.train_batches(dataset, settings, batch_size=batch_size, seed=0, start_step=0)
    found = {}
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        for _ in range(len(paths) // batch_size):
            batch = pool.submit(next, batches).result(SECONDS_PER_BATCH)
            assert not batch["video"][~batch["valid"]].any()
            for index, problem, valid in zip(batch["index"], batch["problem"], batch["valid"], strict=True):
                found[paths[index]] = Problem(int(problem)), bool(valid)
    except Exception as error:  # the table is to show what is missing
        print(f"the loader ended with {type(error).__name__} {error}")
    finally:
        pool.shutdown(wait=False)
    return found


def convert_cases(root: pathlib.Path, out: pathlib.Path, settings: DataSettings) -> dict[str, str]:
    """Return for each path why it could not be converted to .mp4 segments, an empty string if it was."""
    settings = dataclasses.replace(settings, name="folder", root=str(root), label="", manifest="none")
    plan = preparation.make_plan(settings, "array_record", out, Encoding("mp4", 32, None, 90, 30, 12), 4)
    with preparation.locked(out):
        preparation_engines.run_local(plan, 2, lambda videos: None)
        reports = preparation.finish(plan, settings)
    stored = {name for report in reports for name, _ in report["videos"]}
    named = {video.path: name for shard in plan.shards for video, name in shard.videos}
    failures = {
        path: f"{problem}: {why}" for path, problem, why in preparation_reports.summarise(reports, 1.0).failures
    }
    return {path: "" for path, name in named.items() if name in stored} | failures


def run(root: pathlib.Path, cases: int, seed: int, settings: DataSettings) -> list[Outcome]:
    """Return the outcome of every case."""
    paths = make_cases(root, cases, seed)
    entries, loaded = scan_cases(root, settings), load_cases(root, paths, settings)
    converted = convert_cases(root, root / ".converted", settings)
    return [Outcome(path, entries[path], *loaded.get(path, (None, False)), converted.get(path)) for path in paths]


def row_of(outcomes: list[Outcome]) -> list[int]:
    """Return cases; good, bad in the scan; converted, failed; delivered, reported in training; crashed; hung."""
    ends = [(o.entry.problem.partition(":")[0], (o.failure or "").partition(":")[0], str(o.problem)) for o in outcomes]
    lost = [o.problem is None or o.failure is None for o in outcomes]
    crashed = sum(str(Problem.CRASHED) in end or is_lost for end, is_lost in zip(ends, lost, strict=True))
    hung = sum(str(Problem.TIMEOUT) in end for end in ends)
    converted, failed = sum(o.failure == "" for o in outcomes), sum(bool(o.failure) for o in outcomes)
    good, delivered = sum(not o.entry.problem for o in outcomes), sum(o.is_whole for o in outcomes)
    reported = sum(not o.is_whole and o.problem not in (None, Problem.OK) for o in outcomes)
    return [len(outcomes), good, len(outcomes) - good, converted, failed, delivered, reported, crashed, hung]
