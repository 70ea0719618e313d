"""How often training a config goes wrong: many seeds, few steps, one compilation; prints a table.

    python -m benchmarks.stability --config=configs/digits.py --config.data.root=data/digits --seeds=20 --steps=200

Every seed has its own initial network, draws and order of videos. Nothing is evaluated: what counts is what the
monitors see; an alarm of the mean or of copying needs 20 checks in a row, one each `logging.interval_steps`. *Rank* is
the effective rank of a level's tokens before the norm over that of the first step.
"""

import contextlib
import statistics
from collections.abc import Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from hvt_jax.data import catalog, pipeline
from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import alarms, compilation, optim, steps
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.run.events import plan_run
from hvt_jax.settings import Settings, read_settings

CONFIG = config_flags.DEFINE_config_file("config", "configs/digits.py", "Config document.", lock_config=True)
SEEDS = flags.DEFINE_integer("seeds", 20, "How many.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 200, "Of each.", lower_bound=10)


def main(_: Sequence[str]) -> None:
    """Train every seed, print a line for each, then the table."""
    config = CONFIG.value
    with config.unlocked():
        config.train.update(max_steps=STEPS.value, num_epochs=1e4)
    settings = read_settings(config)
    train_set = catalog.load_dataset(settings.data, "train")
    definition = fit_to_labels(steps.define(settings), train_set)
    length = {"steps_per_epoch": plan_run(definition, train_set).steps_per_epoch, "num_steps": STEPS.value}
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, **length)
    compiled = compilation.compile_functions(definition, optimizer, num_steps=STEPS.value)
    initialise = jax.jit(steps.build_initialise(definition, optimizer))
    histories = []
    for seed in range(SEEDS.value):
        histories.append(_train(settings, definition, compiled, initialise, train_set, seed=seed))
        raised = sorted({f"{alarm.kind}: {'/'.join(alarm.where)}" for alarm in alarms.find_ever(histories[-1])})
        print(f"seed {seed}: {'; '.join(raised) or 'no alarm'}", flush=True)
    print(f"\n{SEEDS.value} seeds, {STEPS.value} steps\n")
    print("| level | rank, mean | least | runs with an alarm |\n|---|---:|---:|---:|")
    for level in definition.hierarchy.levels:
        ranks = [values[-1] / values[0] for values in (alarms.series(h, f"monitor/{level}/rank")[1] for h in histories)]
        raised = sum(any(alarm.where[0].split("->")[0] == level for alarm in alarms.find_ever(h)) for h in histories)
        print(f"| {level} | {statistics.mean(ranks):.2f} | {min(ranks):.2f} | {raised} |")


def _train(settings: Settings, definition, compiled, initialise, train_set: Dataset, *, seed: int) -> list[dict]:
    """Return the records of the logged steps of one seed."""
    key, history = jax.random.key(seed), []
    state = initialise(key)
    batches = pipeline.train_batches(
        train_set, settings.data, batch_size=settings.train.batch_size, seed=seed, start_step=0
    )
    with contextlib.closing(batches):
        for step in range(1, STEPS.value + 1):
            batch = next(batches)
            placed = compiled.to_devices({name: batch[name] for name in steps.batch_fields(definition)})
            state, metrics = compiled.train_step(state, placed, key)
            if step == 1 or step % settings.logging.interval_steps == 0:
                history.append({"step": step} | {name: float(value) for name, value in metrics.items()})
    return history


if __name__ == "__main__":
    app.run(main)
