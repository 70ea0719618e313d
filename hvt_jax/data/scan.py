"""Decode every frame of every video of a data set and write down what was found, see `manifest`."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import av

from hvt_jax.data import catalog, decode, killable, manifest, parallel, transforms
from hvt_jax.data.manifest import Entry
from hvt_jax.data.problems import Problem, VideoError
from hvt_jax.data.sources import DataError
from hvt_jax.settings import DataSettings

SPLITS = ("train", "test")
MEMORY_BYTES = 4 * 2**30  # of address space for one video; a frame of the largest size allowed takes 0.2 GB in RGB

_RETRIED = (str(Problem.TIMEOUT), str(Problem.CRASHED))  # it may have been the machine
_CONVERTED_SIZE = (16, 16)  # a frame of every kind is converted once, to see that it can be

Progress = Callable[[int, int], None]


def scan(settings: DataSettings, path: pathlib.Path, on_progress: Progress) -> list[Entry]:
    """Look at every video of all splits, write the manifest and return its entries, in the order of the data set.

    Entries whose file has not changed are taken over from the manifest that is there and from a scan that was
    interrupted; what is found is kept in `<path>.part` until the end.

    Args:
      settings: the data set, the seconds a video may take for each thousand frames, and how many processes look.
      path: of the manifest.
      on_progress: called with videos done and videos in all.

    Raises:
      DataError: if the data set cannot be used, the manifest that is there is damaged, or it cannot be written.
    """
    plain = dataclasses.replace(settings, storage="raw", manifest="none")
    datasets = [catalog.load_dataset(plain, split) for split in SPLITS]
    root = datasets[0].root
    paths = list(dict.fromkeys(video.path for dataset in datasets for video in dataset.videos))
    part = path.with_name(path.name + ".part")
    known = _known_entries(root, paths, path, part)
    to_do = [path for path in paths if path not in known]
    on_progress(len(known), len(paths))
    try:
        with open(part, "a", encoding="ascii") as file:
            for entry in _look_at(settings, root, to_do):
                known[entry.path] = entry
                file.write(manifest.entry_line(entry))
                file.flush()
                on_progress(len(known), len(paths))
    except OSError as error:
        raise DataError(f"{part}: {error.strerror}; name a file that can be written with --manifest") from error
    entries = [known[path] for path in paths]
    manifest.write_manifest(path, entries)
    part.unlink(missing_ok=True)
    return entries


def _known_entries(root: pathlib.Path, paths: list[str], *files: pathlib.Path) -> dict[str, Entry]:
    """Return what earlier scans found, by path, as far as it still holds; later files win."""
    found: dict[str, Entry] = {}
    for file in files:
        if not file.exists() or not file.stat().st_size:
            continue
        if file.name.endswith(".part"):
            found |= {entry.path: entry for entry in _finished_rows(file)}
        else:
            found |= {entry.path: entry for entry in manifest.read_manifest(file)}
    wanted = set(paths)
    found = {path: entry for path, entry in found.items() if path in wanted and not entry.problem.startswith(_RETRIED)}
    current = manifest.are_current(root, list(found.values()))
    return {path: entry for path, entry in found.items() if current[path]}


def _finished_rows(file: pathlib.Path) -> Iterator[Entry]:
    """Yield the entries of an interrupted scan; its last row may be torn."""
    for row, text in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        with contextlib.suppress(DataError):
            yield manifest.parse_entry(text, f"{file}, row {row}")


def _look_at(settings: DataSettings, root: pathlib.Path, paths: list[str]) -> Iterator[Entry]:
    """Yield an entry for each path, as they are done."""
    states: dict[int, tuple[int, float]] = {}

    def tasks() -> Iterator[tuple[str, float]]:
        for position, path in enumerate(paths):
            states[position] = manifest.file_state(root / path)  # before it is read: a change while it is read counts
            yield str(root / path), settings.video_timeout_seconds

    workers = settings.num_workers if settings.num_workers > 0 else parallel.available_cores()
    limits = killable.Limits(settings.video_timeout_seconds, MEMORY_BYTES)
    for position, found in killable.run(check_video, tasks(), workers=workers, limits=limits):
        if isinstance(found, killable.Lost):
            kind = Problem.TIMEOUT if found.timed_out else Problem.CRASHED
            found = {"problem": f"{kind}: {found.reason}"}
        yield Entry(paths[position], *states.pop(position), **found)


def check_video(task: tuple[str, float], renew: killable.Renew) -> dict[str, int | float | str]:
    """Return the fields of an `Entry` that are read from a file: decode all its frames, convert one of every kind.

    Args:
      task: path, and the seconds that each thousand frames may take.
      renew: called with every thousand frames.
    """
    path, timeout_seconds = task
    found: dict[str, int | float | str] = {}
    kinds: set[tuple] = set()

    def keep(number: int, frame: av.VideoFrame) -> None:
        del number
        kind = frame.format.name, frame.width, frame.height, frame.rotation
        if kind not in kinds:
            transforms.fit_frame(frame, *_CONVERTED_SIZE)
            kinds.add(kind)
            found.setdefault("rotation", round(frame.rotation) % 360)

    try:
        with decode.VideoReader(path, timeout_seconds, renew) as reader:
            info = reader.info
            found |= {"frames": info.num_frames, "seconds": info.duration_seconds, "fps": info.fps}
            found |= {"height": info.height, "width": info.width}
            found |= {"codec": info.codec, "pixel_format": info.pixel_format}
            reader.read_all(keep)
    except VideoError as error:
        found["problem"] = f"{error.problem}: {error}"
    except MemoryError:
        found["problem"] = f"{Problem.TOO_LARGE}: needs more than {MEMORY_BYTES // 2**30} GiB of memory"
    return found


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a scan found.

    Attributes:
      good: videos of which every frame was decoded.
      hours: their length.
      bad: entries of the others.
      kinds: how many there are of each kind of problem, the commonest first.
      too_many: whether there are more than data.max_bad_fraction allows.
    """

    good: int
    hours: float
    bad: tuple[Entry, ...]
    kinds: dict[str, int]
    too_many: bool


def summarise(entries: list[Entry], max_bad_fraction: float) -> Summary:
    """Count good and bad entries."""
    bad = tuple(entry for entry in entries if entry.problem)
    names = [entry.problem.partition(":")[0] for entry in bad]
    kinds = {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}
    hours = sum(entry.seconds for entry in entries if not entry.problem) / 3600
    too_many = manifest.are_too_many(len(bad), len(entries), max_bad_fraction)
    return Summary(len(entries) - len(bad), hours, bad, kinds, too_many)
