"""Train a config in many settings, each for several seeds, and put what they found into one table with intervals.

The config file has a function `get_sweep()` beside `get_config()`: a grid or a list of settings, see
configs/sweep_digits.py. Every run is `python -m hvt_jax.main` in a folder of its own, RUNS/SETTING/seedN. All are read
before the first begins. The same command again goes on: what is done is not repeated, what was interrupted resumes.
At the end RUNS has sweep.csv, sweep.md and sweep.png. Ctrl-C and SIGTERM let the runs save; they end with the sweep.

Examples:
  python -m hvt_jax sweep --config=configs/sweep_digits.py --workdir=runs/sweep
  python -m hvt_jax sweep --config=configs/sweep_digits.py --workdir=runs/sweep --processes=4 --seeds=0,1,2,3,4
  python -m hvt_jax sweep --config=configs/sweep_digits.py --workdir=runs/sweep --print > commands.txt
  python -m hvt_jax sweep --config=configs/sweep_digits.py --workdir=runs/sweep --table --metric=knn/clip/digit/top1

Exit codes: 0 all runs are done; 1 some failed, they are named; 2 bad config or flags; 130 or 143 interrupted.
"""

import os
import pathlib
import shlex
import signal
import sys

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "Config with get_sweep(), locked as ever.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs and of the table, e.g. runs/sweep.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Runs at a time; cores and GPUs are shared out.", 1, 1024)
SEEDS = flags.DEFINE_list("seeds", None, "Seeds of each setting, such as 0,1,2; otherwise those of the config.")
METRIC = flags.DEFINE_string(
    "metric", "", "What is compared, such as linear/clip/motion/top1; otherwise checkpoint.best_metric."
)
PRINT = flags.DEFINE_bool("print", False, "Run nothing, print a command a line for every run that is not done.")
TABLE = flags.DEFINE_bool("table", False, "Run nothing, make the table of what is there.")

FAILED, STOPPED = 1, 143
_WIDTH = 140  # of the table where there is no terminal
_OWN_FIELDS = "config differs: logging."  # what may change from one start of a sweep to the next


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    example = "--config=configs/sweep_digits.py --workdir=runs/sweep"
    if code := cli.refuse(argv, CONFIG, WORKDIR, example=example):
        return code
    if PRINT.value and TABLE.value:
        return cli.fail("--print and --table exclude each other")
    return cli.run(_sweep, output=WORKDIR.value)


def _sweep() -> int:
    from hvt_jax import disk
    from hvt_jax.commands import sweep_file
    from hvt_jax.settings import SettingsError
    from hvt_jax.tools import sweep_results

    flag = flags.FLAGS["config"]
    given, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
    sweep = sweep_file.read_sweep(given, overrides, _seeds())
    runs = sweep.runs(pathlib.Path(WORKDIR.value))
    configs = {run: sweep_file.read_config(run, given, overrides) for run in runs}
    sweep_results.check_metric(METRIC.value)
    changed = _changed(configs)
    if TABLE.value:
        for line in changed:
            print(f"warning: {line}", file=sys.stderr)
        return _write_table(sweep, _outcomes(configs))
    if changed:
        raise SettingsError(f"{changed[0]}; one table would mix them: name another --workdir")
    todo = [run for run, outcome in _outcomes(configs).items() if outcome != sweep_results.DONE]
    size = f"{len(sweep.settings)} settings x {len(sweep.seeds)} seeds: {len(runs)} runs, {len(runs) - len(todo)} done"
    print(size, file=sys.stderr if PRINT.value else sys.stdout, flush=True)
    commands = {run: ["-m", "hvt_jax.main", *run.arguments(given, overrides)] for run in todo}
    if PRINT.value:
        for arguments in commands.values():
            print(shlex.join([sys.executable, *arguments]))
        return 0
    with disk.locked(WORKDIR.value, SettingsError, elsewhere="name another --workdir"):
        code = _run(commands)
        outcomes = _outcomes(configs)
        if code in (0, FAILED) and sweep_results.DONE in outcomes.values():
            _write_table(sweep, outcomes)
        return code


def _run(commands: dict) -> int:
    """Run what is to be done; return the exit code."""
    from hvt_jax.tools import sweep_places, sweep_processes

    if not commands:
        return 0
    count = min(PROCESSES.value, len(commands))
    places, line = sweep_places.share_out(
        count, sweep_places.find_cores(), sweep_places.find_gpus(os.environ), os.environ
    )
    _say(line)
    jobs = [sweep_processes.Job(run.name, arguments, run.log) for run, arguments in commands.items()]
    codes, number = sweep_processes.run_jobs(jobs, places, _say)
    if number:
        cli.fail("interrupted; run the same command again to go on")
        return cli.INTERRUPTED if number == signal.SIGINT else STOPPED
    failed = [job for job in jobs if codes[job.name]]
    for job in failed:
        cli.fail(f"{job.name}: {sweep_processes.describe_code(codes[job.name])}, see {job.log}")
    if failed:
        cli.fail(f"{len(failed)} of {len(jobs)} runs are not done; the same command runs them again")
    return FAILED if failed else 0


def _write_table(sweep, outcomes: dict) -> int:
    from rich import console, table

    from hvt_jax.tools import sweep_report, sweep_results

    metric = METRIC.value or CONFIG.value.checkpoint.best_metric
    found = sweep_results.tabulate(sweep, outcomes, metric)
    paths = sweep_report.write(found, pathlib.Path(WORKDIR.value))
    heads, *rows = sweep_report.cells(found)
    shown = table.Table(*heads, title=f"{found.metric.name} and of other levels, mean and 95 % interval (untrained)")
    for row in rows:
        shown.add_row(*row)
    screen = console.Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    screen.print(shown)
    print("\n".join(map(str, paths)), flush=True)
    return 0


def _outcomes(configs: dict) -> dict:
    """Return how every run stands."""
    from hvt_jax.tools import sweep_results

    return {run: sweep_results.outcome(run, config.evaluation.protocols) for run, config in configs.items()}


def _changed(configs: dict) -> list[str]:
    """Return a line for every run in the folder that has another config than the one asked for."""
    from hvt_jax.run import run_folder

    lines = []
    for run, config in configs.items():
        found = [line for line in run_folder.changed_fields(run.folder, config) if _OWN_FIELDS not in line]
        if found:
            lines.append(f"{run.folder} was made by another config ({'; '.join(found)})")
    return lines


def _seeds() -> tuple[int, ...] | None:
    """Return the seeds of the command line."""
    if SEEDS.value is None:
        return None
    from hvt_jax.settings import SettingsError
    from hvt_jax.tools import sweep_plan

    if not all(text.strip().isdecimal() for text in SEEDS.value):
        raise SettingsError(f"--seeds={','.join(SEEDS.value)}, but must be whole numbers, such as 0,1,2")
    return sweep_plan.read_seeds([int(text) for text in SEEDS.value])


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
