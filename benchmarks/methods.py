"""Methods of training compared: same levels, videos, training FLOPs and evaluation; goes on where it was interrupted.

    python -m benchmarks.methods --cost                            (FLOPs, seconds, memory of a step, side by side)
    python -m benchmarks.methods --split=2 --rates=5e-4,2e-3       (to choose rates: validation videos)
    python -m benchmarks.methods --seeds=0,1,2,3,4                 (the comparison: test videos)
    python -m benchmarks.methods --clips=FOLDER --steps=150        (the same on videos in folders by class)
    python -m benchmarks.methods --table --write                   (the tables of what is there; nothing runs)

Every run is `python -m hvt_jax.main --config=configs/digits.py --config.method=NAME`, with as many steps as cost what
--steps of `local` cost by the compiler's count. Videos and folders are those of `benchmarks.study`. With --clips the
model, rates and views stay those of the digits, and videos are held out as configs/folder.py says.
"""

import argparse
import functools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator

import jax

from benchmarks import study
from benchmarks.timed_step import TimedStep
from configs import digits
from hvt_jax.engine import steps
from hvt_jax.evaluation.intervals import mean_and_interval
from hvt_jax.hierarchy import LEVELS
from hvt_jax.run import describe
from hvt_jax.settings import read_settings

METHODS = ("local", "joint", "vicreg", "svt", "brave", "jepa", "mae")
DOCUMENT = pathlib.Path(__file__).parent / "STUDY.md"
BEGIN, END = "<!-- methods -->", "<!-- /methods -->"
BEGIN_CLIPS, END_CLIPS = "<!-- clips -->", "<!-- /clips -->"
_CLIPS = {
    "data.name": "folder",
    "data.height": 64,
    "data.width": 64,
    "data.resize_margin": 1.15,
    "data.cache_gib": 4.0,
    "augmentation.flip_probability": 0.5,
    "evaluation.reversed_pairs": (),
    "train.batch_size": 32,
}
# Chosen on the validation videos, of two rates each (`--split=2 --rates=5e-4,2e-3`).
RATES: dict[str, float] = {"svt": 5e-4}
_DEFAULT_RATE = 2e-3
# Tokens are normalised as in the papers: statistics of batches that are cut or masked are not those of whole videos.
_LAYER_NORM = {f"model.{level}.output_norm": "layer" for level in LEVELS}
FIELDS: dict[str, dict[str, object]] = {"svt": _LAYER_NORM, "jepa": _LAYER_NORM, "mae": _LAYER_NORM}
_ROUNDS = 10


def main() -> int:
    """Run what is asked for and is not there, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, the default being all")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--rates", default="", help="learning rates to try; else the one chosen for each method")
    parser.add_argument("--steps", type=int, default=500, help="steps of `local` whose FLOPs every run is given")
    parser.add_argument("--split", type=int, default=1, choices=(1, 2), help="1: test videos; 2: validation videos")
    parser.add_argument("--root", default="data/digits_study", help="folder of the videos")
    parser.add_argument("--clips", default="", help="folder of videos in folders by class, instead of the digits")
    parser.add_argument("--workdir", default="", help="folder of the runs, else runs/methods or runs/methods_clips")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--cost", action="store_true", help="train nothing, measure a step of each method in turns")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what is there")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/STUDY.md, too")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.methods.split(",")]
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"--methods: {unknown[0]!r} is unknown; there are {', '.join(METHODS)}")
    if asked.clips and asked.split != 1:
        parser.error("--split: folders of videos have one split")
    if asked.cost:
        print(cost_table(names))
        return 0
    workdir = pathlib.Path(asked.workdir or ("runs/methods_clips" if asked.clips else "runs/methods"))
    if not asked.table:
        _run_methods(names, asked, workdir)
    if asked.clips:
        found, marks = "\n\n".join(clips_tables(workdir)), (BEGIN_CLIPS, END_CLIPS)
    else:
        found, marks = "\n\n".join(tables(workdir)), (BEGIN, END)
    print(found)
    if asked.write:
        study.write_between(DOCUMENT, *marks, found)
    return 0


def _run_methods(names: list[str], asked: argparse.Namespace, workdir: pathlib.Path) -> None:
    if not asked.clips:
        study.make_videos(asked.root)
    end = time.monotonic() + 60 * asked.minutes
    for seed in (int(text) for text in asked.seeds.split(",")):
        for name in names:
            for rate in [float(text) for text in asked.rates.split(",") if text] or [_rate(name)]:
                folder = _folder(workdir, name, rate, asked.split, asked.steps, seed)
                if study.is_done(folder) or time.monotonic() > end:
                    continue
                count = round(asked.steps * training_flops("local") / training_flops(name))
                fields = {"method": name, "optimizer.learning_rate": rate, **FIELDS.get(name, {})}
                fields |= _CLIPS | {"data.root": asked.clips} if asked.clips else {}
                study.run_once(folder, fields, argparse.Namespace(**vars(asked) | {"steps": count}), seed)


def _rate(name: str) -> float:
    return RATES.get(name, _DEFAULT_RATE)


def _folder(workdir: pathlib.Path, name: str, rate: float, split: int, steps: int, seed: int) -> pathlib.Path:
    return study.run_folder(workdir, f"{name} {rate:g}", split, steps, seed)


def _definition(name: str) -> steps.Definition:
    config = digits.get_config()
    config.update_from_flattened_dict({"method": name, **FIELDS.get(name, {})})
    return steps.define(read_settings(config))


@functools.cache
def training_flops(name: str) -> float:
    """Return the FLOPs of a training step for one video, all its views included."""
    return describe.count_flops(_definition(name))[1]


def tables(workdir: pathlib.Path) -> list[str]:
    """Return a Markdown table for every split and amount of work under `workdir`."""
    found = []
    for group in sorted(workdir.glob("split*-*")):
        split, work = group.name[5:].split("-")
        videos = "test videos" if split == "1" else "validation videos"
        evaluated = "motion kNN, linear, MLP, direction linear, MLP, digit kNN, linear, MLP".split(", ")
        names = ["method", "rate", "steps", "seeds", "level", *evaluated, "seconds"]
        rows = [f"| {' | '.join(names)} |\n|---|---:|---:|---:|---|{'---:|' * (len(evaluated) + 1)}"]
        for runs, level, cells in _rows(group):
            cells += study.numbers(level, runs)
            cells.append(mean_and_interval([run["seconds"] for run in runs], digits=0))
            rows.append(f"| {' | '.join(cells)} |")
        found.append(f"### Work of {int(work):,} steps of `local`, {videos}\n\n" + "\n".join(rows))
    return found


def _rows(group: pathlib.Path) -> Iterator[tuple[list[dict], str, list[str]]]:
    """Give for every method and level of a group of runs those that are done, the level, and a row's first cells."""
    for path in (path for name in METHODS for path in sorted(group.glob(f"{name}_*"))):
        runs = [study.read(folder) for folder in sorted(path.glob("seed*")) if study.is_done(folder)]
        for level in (level for level in LEVELS[1:] if runs):
            yield runs, level, [*path.name.split("_"), str(runs[0]["steps"]), str(len(runs)), level]


def clips_tables(workdir: pathlib.Path) -> list[str]:
    """Return a Markdown table of the classes of videos in folders, for every amount of work under `workdir`.

    Means of seeds without intervals: the videos are the same for all, and few where this is used.
    """
    found = []
    for group in sorted(workdir.glob("split*-*")):
        head = ["method", "rate", "steps", "seeds", "level"]
        head += [f"{probe} (untrained)" for probe in ("kNN", "linear", "MLP")]
        rows = [f"| {' | '.join(head)} |\n|---|---:|---:|---:|---|---:|---:|---:|"]
        chance = 0.0
        for runs, level, cells in _rows(group):
            for probe in study.PROBES:
                (label,) = runs[0][probe][level]
                judged = [run[probe][level][label] for run in runs]
                chance = judged[0]["chance"]
                trained, untrained = ([one[key] for one in judged] for key in ("top1", "untrained_top1"))
                cells.append(f"{statistics.mean(trained):.1f} ({statistics.mean(untrained):.1f})")
            rows.append(f"| {' | '.join(cells)} |")
        work = int(group.name.split("-")[1])
        found.append(f"### Work of {work:,} steps of `local`, chance {chance:.0f} %\n\n" + "\n".join(rows))
    return found


def cost_table(names: list[str]) -> str:
    """Return FLOPs, seconds and memory of a training step of every method, timed in turns, beside those of `local`."""
    runs = {name: TimedStep(_definition(name)) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            seconds[name].append(run.seconds())
    head = "| method | GFLOP a video | seconds a step | clips/s | over the first | MiB of temporaries |"
    lines = [f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {_ROUNDS} rounds in turns, medians", "", head]
    lines.append("|---|---:|---:|---:|---:|---:|")
    first = statistics.median(seconds[names[0]])
    for name, run in runs.items():
        median = statistics.median(seconds[name])
        lines.append(
            f"| {name} | {training_flops(name) / 1e9:.3f} | {median:.3f} | {run.batch_size / median:.0f} | "
            f"{median / first:.2f} | {run.temporary_bytes / 2**20:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
