"""What starting costs: lines of the program, seconds to trace, lower and compile, cold and from the cache on disk.

    python -m benchmarks.compile_time --configs=configs/ucf.py,configs/digits.py
    python -m benchmarks.compile_time --configs=configs/ucf.py --before=../another_checkout      (in turns with it)

Every figure is of a process of its own: the functions that a run compiles (fresh state, training step, features), one
after the other. Lines are those of the StableHLO text before the compiler works on it. `warm` is a second process with
the cache that the first one left (`train.compilation_cache`). Seconds are of the processor, all cores together, because
a machine that does other things, too, makes those of the clock longer; `wall` is the clock.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

COLUMNS = ("lines", "trace", "lower", "compile", "cpu", "wall")
_HERE = pathlib.Path(__file__).parent.parent


def main() -> int:
    """Measure every config on every side in turns; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/ucf.py", help="separated by commas")
    parser.add_argument("--before", default="", help="folder of another checkout to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--config", default="", help=argparse.SUPPRESS)  # of the child
    asked = parser.parse_args()
    if asked.config:
        print(json.dumps(measure(asked.config)))
        return 0
    sides = {"now": _HERE} | ({"before": pathlib.Path(asked.before).resolve()} if asked.before else {})
    today = datetime.date.today().isoformat()
    print(f"{today}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n", flush=True)
    print("| config | side | lines | trace s | lower s | compile s | all, CPU s | wall s | warm: CPU s | wall s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for config in asked.configs.split(","):
        rows: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(asked.rounds):
            for side, folder in sides.items():
                with tempfile.TemporaryDirectory() as cache:
                    cold, warm = (_child(folder, config, cache) for _ in range(2))
                rows[side].append(cold | {"warm_cpu": warm["cpu"], "warm_wall": warm["wall"]})
        middle = {side: _medians(of) for side, of in rows.items()}
        for side, row in middle.items():
            figures = " | ".join(f"{row[name]:.1f}" for name in (*COLUMNS[1:], "warm_cpu", "warm_wall"))
            print(f"| {config} | {side} | {row['lines']:.0f} | {figures} |", flush=True)
        if "before" in middle:
            ratios = [middle["now"][name] / middle["before"][name] for name in COLUMNS]
            print(f"| | now over before | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} | | |", flush=True)
    return 0


def measure(config: str) -> dict[str, float]:
    """Return lines and seconds of what a run of `config` compiles; the checkout is the one that is imported."""
    import importlib

    import jax

    from hvt_jax.engine import compilation, optim, steps
    from hvt_jax.settings import read_settings

    name, _, argument = config.partition(":")
    module = importlib.import_module(".".join(pathlib.Path(name).with_suffix("").parts))
    settings = read_settings(module.get_config(argument) if argument else module.get_config())
    definition = steps.define(settings, num_classes=101)
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, steps_per_epoch=100, num_steps=1000)
    compiled = compilation.compile_functions(definition, optimizer, num_steps=1000)
    state, batch = compiled.abstract_state, steps.batch_shapes(definition, settings.train.batch_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    window = (settings.evaluation.batch_size, settings.data.num_frames, settings.data.height, settings.data.width, 3)
    features = {"video": jax.ShapeDtypeStruct(window, "uint8")}
    functions = {
        "initialise": (compiled.initialise, ()),
        "step": (compiled.train_step, (state, batch, key)),
        "encode": (compiled.encode, (state.params, state.stats, features)),
    }
    found = dict.fromkeys(COLUMNS, 0.0)
    begin = time.perf_counter()
    for function, arguments in functions.values():
        times = [time.process_time()]
        traced = function.trace(*arguments)
        times.append(time.process_time())
        lowered = traced.lower()
        times.append(time.process_time())
        lowered.compile()
        times.append(time.process_time())
        found["lines"] += lowered.as_text().count("\n")
        for part, start, end in zip(COLUMNS[1:4], times, times[1:], strict=False):
            found[part] += end - start
    found["cpu"] = sum(found[part] for part in COLUMNS[1:4])
    found["wall"] = time.perf_counter() - begin
    return found


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _child(folder: pathlib.Path, config: str, cache: str) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), f"--config={config}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}, {config}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
