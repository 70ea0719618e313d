"""The real loader beside bare decoding loops, each on as many processes, and a long run that must not grow.

    python -m benchmarks.loader --root=FOLDER_OF_VIDEOS [--write]
    python -m benchmarks.loader --root=FOLDER_OF_VIDEOS --soak=5000 [--write]

16 frames of stride 4 at a random start, 128 x 128 pixels, batches of 16, warm file cache. The loader runs with two
worker processes, or with two threads of one process; the bare loop of the same bytes (`hvt_jax.tools.bare_decoding`) in
two processes that do nothing else. Both take turns, --rounds times. JPEG files and .mp4 segments are in memory for the
bare loop, a raw file it opens. A core-second is a second of a core as the system counts it for all processes of a
side, so that other work on the machine matters little; the ratio is clips a core-second, of the medians. --soak takes
tiny clips by two worker processes and looks at resident memory and open files of all processes.
"""

import argparse
import dataclasses
import datetime
import multiprocessing
import os
import pathlib
import platform
import statistics
import tempfile
import time

import numpy as np

from benchmarks.storages import encode_all
from configs import default
from hvt_jax import settings as settings_lib
from hvt_jax.data import pipeline, storages, usage
from hvt_jax.data.catalog import folder
from hvt_jax.data.dataset import Dataset
from hvt_jax.tools import bare_decoding, doctor

BATCH, WORKERS, LISTED = 16, 2, 2000  # every video stands in the list often, as in a set of so many videos
CLIPS_DRAWN = 64  # of the bare loop, decoded over and over
RESULTS = pathlib.Path(__file__).with_name("RESULTS.md")
KINDS = {"raw": "raw", "frames": "frames", "hdf5": "hdf5", "array_record": "array_record", "mp4": "array_record"}


def _bare_process(dataset, settings, seed: int, ready, go, seconds: float, found) -> None:
    """Decode clips that were drawn beforehand until the time is over; called in a process of its own."""
    storage, rng = storages.open_storage(settings, dataset), np.random.default_rng(seed)
    videos = [dataset.videos[int(rng.integers(len(dataset)))] for _ in range(CLIPS_DRAWN)]
    clips = [bare_decoding.draw_clip(storage, video, settings, rng) for video in videos]
    for clip in clips[:4]:
        bare_decoding.decode_bare(clip)
    ready.release()
    go.wait()
    began, used, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        bare_decoding.decode_bare(clips[done % CLIPS_DRAWN])
        done += 1
    found.put((done / (time.perf_counter() - began), done, time.process_time() - used))


def bare_rate(dataset: Dataset, settings, seed: int, seconds: float) -> tuple[float, float]:
    """Return clips/s of two processes together, and clips a core-second."""
    context = multiprocessing.get_context("spawn")
    ready, go, found = context.Semaphore(0), context.Event(), context.Queue()
    rest = (ready, go, seconds, found)
    started = [
        context.Process(target=_bare_process, args=(dataset, settings, seed + number, *rest))
        for number in range(WORKERS)
    ]
    for process in started:
        process.start()
    for _ in started:
        ready.acquire()
    go.set()
    rates, clips, used = zip(*(found.get(timeout=60 + 10 * seconds) for _ in started), strict=True)
    for process in started:
        process.join()
    return sum(rates), sum(clips) / sum(used)


def compare(dataset: Dataset, settings, *, rounds: int, seconds: float, seed: int) -> dict[str, list]:
    """Return trials of the loader with processes and with threads, and rates of the bare loop, taken in turns."""
    found = {"processes": [], "threads": [], "bare": []}
    by_name = {"processes": doctor.Setting(WORKERS, 1, 4), "threads": doctor.Setting(0, WORKERS, 4)}
    for turn in range(rounds):
        for name in list(found) if turn % 2 else list(found)[::-1]:
            if name == "bare":
                found[name].append(bare_rate(dataset, settings, seed + turn, seconds))
            else:
                options = {"batch_size": BATCH, "seed": seed + turn, "seconds": seconds}
                found[name].append(doctor.try_setting(dataset, settings, by_name[name], **options))
    return found


def measure(root: pathlib.Path, arguments: argparse.Namespace) -> list[str]:
    """Return the rows of the table, one a storage."""
    data = settings_lib.read_settings(default.get_config()).data
    data = dataclasses.replace(data, root=str(root), num_frames=16, frame_stride=4, height=128, width=128)
    dataset = folder.load(data, "train")
    many = Dataset(dataset.root, dataset.videos * -(-LISTED // len(dataset)), dataset.label_names)
    rows = []
    for kind in arguments.storages:
        with tempfile.TemporaryDirectory() as place:
            own = dataclasses.replace(data, storage=KINDS[kind])
            if kind != "raw":
                shard = storages.shard_path(own.storage, pathlib.Path(place), 0, 1)
                encoded = encode_all(dataset, as_mp4=kind == "mp4")
                storages.write_shard(own.storage, shard, encoded, sync=False)
                own = dataclasses.replace(own, storage_root=place)
            found = compare(many, own, rounds=arguments.rounds, seconds=arguments.seconds, seed=arguments.seed)
        bare = [statistics.median(column) for column in zip(*found["bare"], strict=True)]
        cells = [kind, f"{bare[0]:.0f}", f"{bare[1]:.0f}"]
        for name in ("processes", "threads"):
            by_core = statistics.median(1 / trial.cpu_seconds for trial in found[name])
            cells.append(f"{statistics.median(trial.clips_per_second for trial in found[name]):.0f}")
            cells += [f"{by_core:.0f}", f"**{by_core / bare[1]:.2f}**"]
        cells.append(f"{max(trial.first_batch_seconds for trial in found['processes']):.1f}")
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def soak(root: pathlib.Path, batches: int, seed: int) -> list[str]:
    """Return rows of memory and open files while so many batches are taken."""
    data = settings_lib.read_settings(default.get_config()).data
    data = dataclasses.replace(data, root=str(root), num_frames=2, frame_stride=1, height=16, width=16)
    data = dataclasses.replace(data, num_workers=WORKERS, read_threads=1, prefetch_batches=4)
    dataset = folder.load(data, "train")
    many = Dataset(dataset.root, dataset.videos * -(-LISTED // len(dataset)), dataset.label_names)
    loader = pipeline.train_batches(many, data, batch_size=4, seed=seed, start_step=0)
    rows = []
    with doctor.closing_batches(loader) as loader:
        for number in range(batches + 1):
            next(loader)
            if number % max(1, batches // 5) == 0:
                files = [len(os.listdir(f"/proc/{child.pid}/fd")) for child in multiprocessing.active_children()]
                own = usage.open_files()
                rows.append(f"| {number} | {usage.resident_mb():.1f} | {own} | {', '.join(map(str, files))} |")
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the table, and append it to RESULTS.md if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder of videos, read as data.name = folder")
    parser.add_argument("--label", default="", help="what the videos are, for the heading of the table")
    parser.add_argument("--storages", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--soak", type=int, default=0, help="take so many batches of tiny clips instead")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    arguments = parser.parse_args()
    if arguments.soak:
        head = f"Loader over {arguments.soak} batches"
        columns = ["batches", "MB resident, all processes", "open files of the trainer", "of each worker"]
        rows = soak(arguments.root, arguments.soak, arguments.seed)
    else:
        head = "Loader beside bare decoding"
        columns = ["storage", "bare clips/s, 2 processes", "a core-second"]
        for name in ("workers", "threads"):
            columns += [f"2 {name}, clips/s", "a core-second", "over bare"]
        columns.append("first batch s, workers, longest")
        rows = measure(arguments.root, arguments)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    load = f"load average {os.getloadavg()[0]:.1f} at the end"
    date = datetime.date.today().isoformat()
    lines = [f"\n## {head}{', ' * bool(arguments.label)}{arguments.label}, {date}, {machine}, {load}\n"]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows]
    if arguments.write:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
