"""Does a curriculum pay? Orders of stages at equal training FLOPs, seeds, one table; goes on where it was interrupted.

    python -m benchmarks.curriculum --seeds=0,1,2 --steps=300
    python -m benchmarks.curriculum --split=2                     (to choose: validation videos)
    python -m benchmarks.curriculum --table                       (of what is there; nothing runs)

Every row is `python -m hvt_jax curriculum --config=configs/curriculum_digits.py` with the stages and the shares of the
compute in ROWS; the last stage is the same in all. Compute is what XLA counts for forward and backward of a batch,
times steps: all rows spend that of --steps steps of the last stage alone, to within a step. Evaluations come at the
beginning and the end of every stage, and are not counted. Shown is the last stage.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

from benchmarks import study
from configs import curriculum_digits
from hvt_jax.engine import steps
from hvt_jax.hierarchy import LEVELS
from hvt_jax.run import describe
from hvt_jax.settings.curriculum import read_curriculum

# Share of the training FLOPs that every stage gets, in the order in which they run.
ROWS: dict[str, dict[str, float]] = {
    "long from scratch": {"long": 1.0},
    "short, long": {"short": 0.25, "long": 0.75},
    "images, long": {"images": 0.15, "long": 0.85},
    "images, short, long": {"images": 0.1, "short": 0.25, "long": 0.65},
}
_COLUMNS = "motion kNN, linear, MLP, direction linear, MLP, digit kNN, linear, MLP, TFLOP, seconds"


def main() -> int:
    """Run what is asked for and is not there, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=";".join(ROWS), help="names, with ; between them")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--steps", type=int, default=300, help="of the last stage alone, whose compute all rows spend")
    parser.add_argument("--split", type=int, default=1, choices=(1, 2), help="1: test videos; 2: validation videos")
    parser.add_argument("--root", default="data/digits_study", help="folder of the videos")
    parser.add_argument("--workdir", default="runs/curriculum_study", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what is there")
    parser.add_argument("--grow", default="rows", choices=("rows", "interpolate"), help="how tables grow")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.rows.split(";")]
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: {unknown[0]!r} is unknown; there are {'; '.join(ROWS)}")
    if not asked.table:
        _run_rows(names, asked)
    print(table(pathlib.Path(asked.workdir), asked.split, asked.steps))
    return 0


def _run_rows(names: list[str], asked: argparse.Namespace) -> None:
    study.make_videos(asked.root)
    costs, end = step_flops(), time.monotonic() + 60 * asked.minutes
    for seed in (int(text) for text in asked.seeds.split(",")):
        for name in names:
            folder = run_folder(pathlib.Path(asked.workdir), name, asked.split, asked.steps, seed)
            if not _is_done(folder) and time.monotonic() < end:
                _run(folder, stage_steps(ROWS[name], costs, asked.steps), asked, seed)


def step_flops() -> dict[str, float]:
    """Return the FLOPs of a training step of every stage of the config."""
    return {
        stage.name: describe.count_flops(steps.define(stage.settings), stage.settings.train.batch_size)[1]
        for stage in read_curriculum(curriculum_digits.get_config()).stages
    }


def stage_steps(shares: dict[str, float], costs: dict[str, float], num_steps: int) -> dict[str, int]:
    """Return the steps of every stage of a row, in the order of `shares`.

    The last one gets what the whole steps of the others leave of `num_steps` of its own.
    """
    *first, last = shares
    budget = num_steps * costs[last]
    found = {name: round(shares[name] * budget / costs[name]) for name in first}
    spent = sum(costs[name] * count for name, count in found.items())
    return found | {last: round((budget - spent) / costs[last])}


def _is_done(folder: pathlib.Path) -> bool:
    path = folder / "curriculum.json"
    return path.exists() and json.loads(path.read_text())["outcome"] == "done"


def run_folder(workdir: pathlib.Path, name: str, split: int, num_steps: int, seed: int) -> pathlib.Path:
    """Return the folder of one curriculum."""
    return workdir / f"split{split}-{num_steps}" / name.replace(", ", "-").replace(" ", "_") / f"seed{seed}"


def _run(folder: pathlib.Path, lengths: dict[str, int], asked: argparse.Namespace, seed: int) -> None:
    print(f"{folder}: {', '.join(f'{name} {count} steps' for name, count in lengths.items())}", flush=True)
    fields = {
        "order": tuple(lengths),
        "grow": asked.grow,
        "base.data.root": asked.root,
        "base.data.split": asked.split,
        "base.seed": seed,
        "base.evaluation.interval": 1000.0,  # before and after, no more
    }
    for name, count in lengths.items():
        # More epochs than max_steps leaves.
        fields |= {f"stages.{name}.train.max_steps": count, f"stages.{name}.train.num_epochs": 1000.0}
    command = [sys.executable, "-m", "hvt_jax", "curriculum", "--config=configs/curriculum_digits.py"]
    command += [f"--workdir={folder}", *(f"--config.{name}={value}" for name, value in fields.items())]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(f"  ended with {code}, see {folder.with_suffix('.log')}", flush=True)


def table(workdir: pathlib.Path, split: int, num_steps: int) -> str:
    """Return a Markdown table of the curricula that are done: means over seeds of the last stage, level by level."""
    names = f"stages, seeds, level, {_COLUMNS}".split(", ")
    lines = [f"| {' | '.join(names)} |", f"|---|---:|---|{'---:|' * (len(names) - 3)}"]
    for name in ROWS:
        parent = run_folder(workdir, name, split, num_steps, 0).parent
        runs = [_read(path) for path in sorted(parent.glob("seed*")) if path.is_dir() and _is_done(path)]
        levels = [level for level in LEVELS[1:] if runs and level in runs[0]["knn"]]
        lines += [_row(name, level, runs) for level in levels]
    return "\n".join(lines)


def _read(folder: pathlib.Path) -> dict:
    """Return results.json of the last stage, and what the whole cost."""
    content = json.loads((folder / "curriculum.json").read_text())
    last = json.loads((folder / content["stages"][-1]["folder"] / "results.json").read_text())
    return last | {"total": content["total"]}


def _row(name: str, level: str, runs: list[dict]) -> str:
    numbers = study.numbers(level, runs)
    numbers.append(f"{runs[0]['total']['training_flops'] / 1e12:.2f}")
    numbers.append(f"{sum(run['total']['seconds'] for run in runs) / len(runs):.0f}")
    return f"| {name} | {len(runs)} | {level} | {' | '.join(numbers)} |"


if __name__ == "__main__":
    sys.exit(main())
