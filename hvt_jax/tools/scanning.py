"""Decode every frame of every video of a data set and write down what was found, see `manifest`."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator

import av
import numpy as np

from hvt_jax.data import catalog, decode, listing, manifest, parallel, storages, transforms
from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.data.manifest import Entry
from hvt_jax.data.problems import RETRIED, Problem, VideoError, count_kinds
from hvt_jax.settings import DataSettings
from hvt_jax.tools import subprocess_pool

SPLITS = ("train", "test")
MEMORY_BYTES = 4 * 2**30  # of address space for one video; a frame of the largest size allowed takes 0.2 GB in RGB

_CONVERTED_SIZE = (16, 16)  # a frame of every kind is converted once, to see that it can be
_PICTURES = 250  # read between two signs of life

_LOG = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def scan(settings: DataSettings, path: pathlib.Path, on_progress: Progress) -> list[Entry]:
    """Look at every video of all splits, write the manifest and return its entries, in the order of the data set.

    A data set with one split only, as a folder with one video, is looked at as far as it goes. Entries whose file has
    not changed are taken over from the manifest that is there and from a scan that was interrupted; what is found is
    kept in `<path>.part` until the end.

    Args:
      settings: the data set, the seconds a video may take for each thousand frames, and how many processes look.
      path: of the manifest.
      on_progress: called with videos done and videos in all.

    Raises:
      DataError: if the data set cannot be used, the manifest that is there is damaged, or it cannot be written.
    """
    _refuse_shards(settings)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file with --manifest")
    datasets = _load_splits(dataclasses.replace(settings, manifest="none"))
    root = datasets[0].root
    paths = list(dict.fromkeys(video.path for dataset in datasets for video in dataset.videos))
    part = path.with_name(path.name + ".part")
    known = _known_entries(settings, root, paths, path, part)
    to_do = [path for path in paths if path not in known]
    on_progress(len(known), len(paths))
    try:
        with open(part, "a", encoding="ascii") as file:
            for entry in _look_at(settings, datasets[0], to_do):
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


def _refuse_shards(settings: DataSettings) -> None:
    if settings.storage not in ("raw", "frames") or listing.find_listing(settings) is not None:
        raise DataError(
            f"data.storage = {settings.storage!r}: a scan looks at videos as they came (raw) and at folders of frames; "
            "what prepare made it has looked at, and run again it compares the hashes"
        )


def _load_splits(settings: DataSettings) -> list[Dataset]:
    """Return the splits that there are; a scan needs no other."""
    found, errors = [], []
    for split in SPLITS:
        try:
            found.append(catalog.load_dataset(settings, split))
        except DataError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for error in errors:
        _LOG.warning("one split is left out: %s", error)
    return found


def _known_entries(
    settings: DataSettings, root: pathlib.Path, paths: list[str], *files: pathlib.Path
) -> dict[str, Entry]:
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
    found = {
        path: entry
        for path, entry in found.items()
        if path in wanted and entry.storage == settings.storage and not entry.problem.startswith(RETRIED)
    }
    current = manifest.are_current(settings, root, list(found.values()))
    return {path: entry for path, entry in found.items() if current[path]}


def _finished_rows(file: pathlib.Path) -> Iterator[Entry]:
    """Yield the entries of an interrupted scan; its last row may be torn."""
    for row, text in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        with contextlib.suppress(DataError):
            yield manifest.parse_entry(text, f"{file}, row {row}")


def _look_at(settings: DataSettings, dataset: Dataset, paths: list[str]) -> Iterator[Entry]:
    """Yield an entry for each path, as they are done."""
    states: dict[int, tuple[int, float]] = {}

    def tasks() -> Iterator[tuple[str, float]]:
        for position, path in enumerate(paths):
            file = manifest.place(settings, dataset.root, path)
            states[position] = manifest.file_state(file)  # before it is read: a change while it is read counts
            yield str(file) if settings.storage == "raw" else path, settings.video_timeout_seconds

    look = check_video
    if settings.storage != "raw":
        look = functools.partial(check_stored, storages.open_storage(settings, dataset))
    workers = settings.num_workers if settings.num_workers > 0 else parallel.available_cores()
    limits = subprocess_pool.Limits(settings.video_timeout_seconds, MEMORY_BYTES)
    for position, found in subprocess_pool.run(look, tasks(), workers=workers, limits=limits):
        if isinstance(found, subprocess_pool.Lost):
            kind = Problem.TIMEOUT if found.timed_out else Problem.CRASHED
            found = {"problem": f"{kind}: {found.reason}"}
        yield Entry(paths[position], *states.pop(position), **found, storage=settings.storage)


def check_video(task: tuple[str, float], renew: subprocess_pool.Renew) -> dict[str, int | float | str]:
    """Return the fields of an `Entry` that are read from a file: decode all its frames, convert one of every kind.

    Args:
      task: path, and the seconds that each thousand frames may take.
      renew: called with every thousand frames.
    """
    path, timeout_seconds = task
    found: dict[str, int | float | str] = {}
    kinds: set[tuple] = set()
    orientations = transforms.Orientations()

    def keep(number: int, frame: av.VideoFrame) -> None:
        del number
        turns, mirrored = orientations.of(frame)
        kind = frame.format.name, frame.width, frame.height, turns, mirrored
        if kind not in kinds:
            transforms.fit_frame(frame, *_CONVERTED_SIZE)
            kinds.add(kind)
            found.setdefault("rotation", 90 * turns)
            found.setdefault("mirrored", int(mirrored))

    with _faults_in(found), decode.VideoReader(path, timeout_seconds, renew) as reader:
        info = reader.info
        found |= {"frames": info.num_frames, "seconds": info.duration_seconds, "fps": info.fps}
        found |= {"height": info.height, "width": info.width, "codec": info.codec, "pixel_format": info.pixel_format}
        found |= {"start": info.start_seconds, "video_streams": info.num_streams}
        reader.read_all(keep)
    return found


def check_stored(
    storage: storages.Storage, task: tuple[str, float], renew: subprocess_pool.Renew
) -> dict[str, int | float | str]:
    """Return the fields of an `Entry` of a video in a storage of single frames, `task[0]`: decode all of them."""
    found: dict[str, int | float | str] = {}
    with _faults_in(found):
        count = 1
        for first in itertools.count(0, _PICTURES):
            if first >= count:
                break
            with storage.open_video(Video(task[0], ())) as reader:
                count, size = reader.info.num_frames, (reader.info.height, reader.info.width)
                found |= {"frames": count, "seconds": reader.info.duration_seconds, "fps": reader.info.fps}
                found |= {"height": size[0], "width": size[1]}
                for number in range(first, min(first + _PICTURES, count)):
                    reader.read(np.array([number]), *_CONVERTED_SIZE)
            renew()
    return found


@contextlib.contextmanager
def _faults_in(found: dict[str, int | float | str]) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        found["problem"] = f"{error.problem}: {error}"
    except MemoryError:
        found["problem"] = f"{Problem.TOO_LARGE}: needs more than {MEMORY_BYTES // 2**30} GiB of memory"


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
    hours = sum(entry.seconds for entry in entries if not entry.problem) / 3600
    too_many = manifest.are_too_many(len(bad), len(entries), max_bad_fraction)
    return Summary(len(entries) - len(bad), hours, bad, count_kinds(names), too_many)
