"""What makes the levels learn: rows of settings, seeds, one table; goes on where it was interrupted.

    python -m benchmarks.study --rows=all --seeds=0,1,2,3,4 --steps=500
    python -m benchmarks.study --rows=default,joint --split=2        (to choose settings: validation videos)
    python -m benchmarks.study --table --write                       (the tables of what is there; nothing runs)

Every row is `python -m hvt_jax.main --config=configs/digits.py` with the overrides of ROWS, in a folder of its own
under --workdir. A run that was interrupted resumes; one that is done is not repeated. The digits are made first if
they are not there: 3,572 videos, 1,000 of them for testing; split 2 has handwriting of its own to choose settings by.
With --write, rows of the document that --workdir has not, or of fewer seeds, stay as they are.
"""

import argparse
import itertools
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TypeAlias

from configs import digits
from hvt_jax.engine import alarms
from hvt_jax.evaluation.intervals import mean_and_interval
from hvt_jax.hierarchy import LEVELS
from hvt_jax.run import run_folder as run_folder_lib

NUM_VIDEOS = 3572
DOCUMENT = pathlib.Path(__file__).parent / "STUDY.md"
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
VIDEOS = {1: "test videos", 2: "validation videos"}
THREE = {"model.hierarchy": "frame-clip-sequence"}
# The weight before the default's was chosen: most rows were measured with it.
BEFORE = {"objective.regularizer_weight": 0.2}
REGRESSION = {
    "objective.distance": "smooth_l1",
    "objective.patch_targets": "uniform",
    "objective.patch_weight": 1.0,
    "objective.regularizer_weight": 0.5,
}
# Of labels: four levels at the rate of the default learn less from them.
SUPERVISED = {"method": "supervised", "model.hierarchy": "frame-clip", "optimizer.learning_rate": 1e-3}
_OF_BEFORE: dict[str, dict[str, object]] = {
    "regularizer 0.2": {},
    "16 frames": {"data.num_frames": 16, "data.frame_stride": 2},
    "three levels": THREE,
    "patches asked evenly": {"objective.patch_targets": "uniform", "objective.patch_weight": 1.0},
    "patches count once": {"objective.patch_weight": 1.0},
    "patches count 4 times": {"objective.patch_weight": 4.0},
    "other places compete": {"objective.place_candidates": 16},
    "regularizer 0": {"objective.regularizer": "none"},
    "regularizer 0.05": {"objective.regularizer_weight": 0.05},
    "regularizer 0.5": {"objective.regularizer_weight": 0.5},
    "rate 1e-3": {"optimizer.learning_rate": 1e-3},
    "batch competes 0.1": {"objective.batch_candidates_weight": 0.1},
    "batch competes 1": {"objective.batch_candidates_weight": 1.0},
    "no side": {"objective.side": False},
    "least distance 2": {"objective.least_distance": 2},
    "temperature 0.2": {"objective.contrastive_temperature": 0.2},
    "no colour changes": {
        "augmentation.color_jitter_probability": 0.0,
        "augmentation.greyscale_probability": 0.0,
        "augmentation.blur_probability": 0.0,
    },
    "strong colour changes": {
        "augmentation.color_jitter_probability": 1.0,
        "augmentation.greyscale_probability": 0.3,
    },
    "upper levels twice as wide": {
        f"model.{level}.{name}": 2 * size
        for level, width in (("clip", 96), ("sequence", 128))
        for name, size in (("width", width), ("head_width", width // 4), ("mlp_width", 4 * width))
    },
    "regression": REGRESSION,
    "regression three levels": REGRESSION | THREE,
    "joint regularizer 0.2": {"method": "joint"},
    "joint patches count once": {"method": "joint", "objective.patch_weight": 1.0},
}
ROWS: dict[str, dict[str, object]] = {
    "default": {},
    "joint": {"method": "joint"},
    **{name: BEFORE | changes for name, changes in _OF_BEFORE.items()},
    "supervised": SUPERVISED,
    "supervised by digit": SUPERVISED | {"data.label": "digit"},
    "supervised four levels": {"method": "supervised"},
}
PROBES = ("knn", "linear", "mlp")
Place: TypeAlias = tuple[int, int, str]  # split, steps and row
_FREE = ("data.", "seed", "train.", "evaluation.", "checkpoint.", "logging.")  # may differ, unless a row names it


def main() -> int:
    """Run what is asked for and is not there, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="default", help=f"names, or all: {', '.join(ROWS)}")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--steps", type=int, default=500, help="training steps of 64 videos")
    parser.add_argument("--split", type=int, default=1, choices=(1, 2), help="1: test videos; 2: validation videos")
    parser.add_argument("--root", default="data/digits_study", help="folder of the videos")
    parser.add_argument("--workdir", default="runs/study", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/STUDY.md, too")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    asked = parser.parse_args()
    names = list(ROWS) if asked.rows == "all" else [name.strip() for name in asked.rows.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: {unknown[0]!r} is unknown; there are {', '.join(ROWS)}")
    if not asked.table:
        _run_rows(names, asked)
    written = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0] if asked.write else ""
    found = "\n\n".join(tables(pathlib.Path(asked.workdir), written))
    print(found)
    if asked.write:
        write_between(DOCUMENT, BEGIN, END, found)
    return 0


def write_between(document: pathlib.Path, begin: str, end: str, text: str) -> None:
    """Put `text` between two marks of a document, in the place of what was there."""
    before, _, after = document.read_text(encoding="utf-8").partition(begin)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after.partition(end)[2]}", encoding="utf-8")


def make_videos(root: str) -> None:
    """Make the digits of the study in the folder `root`, if they are not there."""
    command = [sys.executable, "-m", "hvt_jax", "make_digits", f"--root={root}", f"--num_videos={NUM_VIDEOS}"]
    subprocess.run(command, check=True)


def _run_rows(names: list[str], asked: argparse.Namespace) -> None:
    make_videos(asked.root)
    end = time.monotonic() + 60 * asked.minutes
    for seed in (int(text) for text in asked.seeds.split(",")):
        for name in names:
            folder = run_folder(pathlib.Path(asked.workdir), name, asked.split, asked.steps, seed)
            if not has_other_settings(folder, name) and not is_done(folder) and time.monotonic() < end:
                run_once(folder, ROWS[name], asked, seed)


def has_other_settings(folder: pathlib.Path, name: str) -> bool:
    """Return whether the run in a folder had other settings than its row has now, and say so: it does not count."""
    config = digits.get_config()
    config.update_from_flattened_dict(ROWS[name])
    changes = run_folder_lib.config_changes(folder / "config.json", config)
    of_row = {field: both for field, both in changes.items() if field in ROWS[name] or not field.startswith(_FREE)}
    for field, (before, now) in of_row.items():
        print(f"{folder}: left out, trained with {field} {before}, where the row has {now}", file=sys.stderr)
    return bool(of_row)


def is_done(folder: pathlib.Path) -> bool:
    """Return whether a run came to its end; one that was interrupted left results.json, too."""
    path = folder / "results.json"
    return path.exists() and json.loads(path.read_text())["outcome"] == "done"


def run_folder(workdir: pathlib.Path, name: str, split: int, steps: int, seed: int) -> pathlib.Path:
    """Return the folder of one run; `read` reads its parts back."""
    return workdir / f"split{split}-{steps}" / name.replace(" ", "_") / f"seed{seed}"


def run_once(folder: pathlib.Path, overrides: dict[str, object], asked: argparse.Namespace, seed: int) -> None:
    """Train in `folder`, with `steps`, `root` and `split` as asked, and evaluate before and after; says if it fails."""
    print(f"{folder}", flush=True)
    fields = {
        "data.root": asked.root,
        "data.split": asked.split,
        "seed": seed,
        "train.max_steps": asked.steps,
        "train.num_epochs": 1000.0,  # more than max_steps leaves
        "evaluation.interval": 1000.0,  # before and after, no more
        **overrides,
    }
    command = [sys.executable, "-m", "hvt_jax.main", "--config=configs/digits.py", f"--workdir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        arguments = [f"--config.{name}={value}" for name, value in fields.items()]
        code = subprocess.run(command + arguments, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(f"  ended with {code}, see {folder.with_suffix('.log')}", flush=True)


def tables(workdir: pathlib.Path, written: str = "") -> list[str]:
    """Return a Markdown table for every split and number of steps under `workdir`; rank is over the first step's.

    Rows of `written`, tables of other runs, stay, unless `workdir` has the same row of as many seeds or more.
    """
    rows = _rows_of(written)
    for place, row in _measured(workdir):
        if place not in rows or _num_seeds(rows[place]) <= _num_seeds(row):
            rows[place] = row
    evaluated = "motion kNN, linear, MLP, direction linear, MLP, digit kNN, linear, MLP"
    names = f"row, seeds, level, {evaluated}, rank, least, alarms".split(", ")
    head = f"| {' | '.join(names)} |\n|---|---:|---|{'---:|' * (len(names) - 3)}"
    order = [*ROWS, *(name for _, _, name in rows if name not in ROWS)]
    found = []
    for split, steps in sorted({place[:2] for place in rows}):
        places = [(split, steps, name) for name in dict.fromkeys(order)]
        lines = [head, *(rows[place] for place in places if place in rows)]
        found.append(f"### {steps:,} steps, {VIDEOS[split]}\n\n" + "\n".join(lines))
    return found


def _measured(workdir: pathlib.Path) -> Iterator[tuple[Place, str]]:
    """Yield the rows of the runs under `workdir` that are done, each with a line a level."""
    for group in workdir.glob("split[12]-*[0-9]"):
        split, steps = (int(text) for text in group.name.removeprefix("split").split("-"))
        for name in ROWS:
            folder = run_folder(workdir, name, split, steps, 0).parent
            done = [path for path in sorted(folder.glob("seed*")) if path.is_dir() and is_done(path)]
            runs = [read(path) for path in done if not has_other_settings(path, name)]
            levels = [level for level in LEVELS[1:] if runs and level in runs[0]["knn"]]
            if levels:
                yield (split, steps, name), "\n".join(_row(name, level, runs) for level in levels)


def _rows_of(written: str) -> dict[Place, str]:
    """Return the rows of tables that `tables` wrote."""
    rows = {}
    for table in written.split("### ")[1:]:
        heading, *lines = table.strip().splitlines()
        steps, videos = heading.split(" steps, ")
        split = next(split for split, name in VIDEOS.items() if name == videos)
        for name, of_level in itertools.groupby(lines[3:], lambda line: line.split("|")[1].strip()):
            rows[split, int(steps.replace(",", "")), name] = "\n".join(of_level)
    return rows


def _num_seeds(row: str) -> int:
    return int(row.split("|")[2])


def read(folder: pathlib.Path) -> dict:
    """Return results.json, the rank of every level over that of its first step, and where alarms were raised."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ranks = {}
    for level in LEVELS:
        values = alarms.series(records, f"monitor/{level}/rank")[1]
        if values:
            ranks[level] = values[-1] / values[0]
    places = sorted({alarm.where[0].split("->")[0] for alarm in alarms.find_ever(records)})
    return json.loads((folder / "results.json").read_text()) | {"ranks": ranks, "alarms": places}


def numbers(level: str, runs: list[dict]) -> list[str]:
    """Return accuracies of a level over runs: motion and digit by every probe, direction by all but neighbours."""
    found = [mean_and_interval([run[probe][level]["motion"]["top1"] for run in runs]) for probe in PROBES]
    found += [mean_and_interval([run[probe][level]["motion"]["within_pairs"] for run in runs]) for probe in PROBES[1:]]
    return found + [mean_and_interval([run[probe][level]["digit"]["top1"] for run in runs]) for probe in PROBES]


def _row(name: str, level: str, runs: list[dict]) -> str:
    cells = numbers(level, runs)
    ranks = [run["ranks"].get(level, math.nan) for run in runs]
    cells += [mean_and_interval(ranks, digits=2), f"{min(ranks):.2f}"]
    cells.append(str(sum(any(level in place for place in run["alarms"]) for run in runs)))
    return f"| {name} | {len(runs)} | {level} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
