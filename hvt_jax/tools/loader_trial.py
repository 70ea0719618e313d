"""The device's part of the loader's doctor: transfer, augmentation, and how long the step waits in the real loop."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax

from hvt_jax.data import parallel, pipeline, usage
from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import compilation, optim, steps
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.run.events import plan_run
from hvt_jax.settings import Settings
from hvt_jax.tools import bare_decoding, doctor, loader_advice

_REPEATS = 5
_WARM_UP = 3  # steps: the first ones find batches that were made while the step was compiled

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class DeviceTimes:
    """Seconds on the device, for one batch of a step.

    Attributes:
      transfer: from the host to the device.
      augment: crops, colours and normalisation alone.
      step: all of it, augmentation too, the batch being there.
      compile: of the step.
      loop_batches: of the real loop, after it warmed up.
      loop_wait: of each step for `next(batches)`, in the real loop with the settings of the config.
      loop_step: of each step of that loop in all.
    """

    transfer: float
    augment: float
    step: float
    compile: float
    loop_batches: int
    loop_wait: float
    loop_step: float


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the doctor found.

    Attributes:
      findings: see `loader_advice.Findings`.
      comparison: of the reader and the bare loop.
      device: None if no step was made.
      memory_mb: resident memory of trainer and workers before the first and after the last measurement, 10^6 bytes.
      open_files: of this process, before and after; None where the system does not say.
      num_frames: T, of a clip.
      advice: what follows.
    """

    findings: loader_advice.Findings
    comparison: bare_decoding.Comparison
    device: DeviceTimes | None
    memory_mb: tuple[float, float]
    open_files: tuple[int | None, int | None]
    num_frames: int
    advice: loader_advice.Advice


def examine(
    settings: Settings, dataset: Dataset, *, batches: int, seconds: float, with_step: bool, note: Note = print
) -> Report:
    """Measure everything, one thing after the other.

    Args:
      settings: of the run.
      dataset: its training videos.
      batches: steps of the real loop, at most.
      seconds: for each of four measurements: one thread, the bare loop, all settings of the loader, the real loop.
      with_step: compile and time the training step too.
      note: called with what is done next.
    """
    data, options = settings.data, {"batch_size": settings.train.batch_size, "seed": settings.seed}
    before = usage.resident_mb(), usage.open_files()
    note("one thread")
    one_thread = doctor.measure_one_thread(dataset, data, **options, seconds=seconds)
    note("bare decoding")
    comparison = bare_decoding.compare(dataset, data, seed=settings.seed, seconds=seconds)
    copies = bare_decoding.measure_copies(dataset, data, seed=settings.seed)
    trials = doctor.sweep(dataset, data, **options, seconds=seconds, note=note)
    device = None
    if with_step:
        note("the training step: compiling")
        device = measure_device(settings, dataset, batches=batches, seconds=seconds)
    after = usage.resident_mb(), usage.open_files()
    share = settings.train.batch_size // jax.process_count()
    step = device.step + device.transfer if device else None
    cores = parallel.available_cores()
    findings = loader_advice.Findings(data.storage, cores, one_thread, trials, copies, share, step)
    memory, files = zip(before, after, strict=True)
    return Report(findings, comparison, device, memory, files, data.num_frames, loader_advice.give_advice(findings))


def measure_device(settings: Settings, dataset: Dataset, *, batches: int, seconds: float) -> DeviceTimes:
    """Compile the training step of a config and run it on its real batches."""
    definition = fit_to_labels(steps.define(settings), dataset)
    plan, views = plan_run(definition, dataset), definition.method.views(settings)
    length = {"steps_per_epoch": plan.steps_per_epoch, "num_steps": plan.num_steps}
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, **length)
    compiled = compilation.compile_functions(definition, optimizer, num_steps=plan.num_steps)
    order = {"batch_size": settings.train.batch_size, "seed": settings.seed, "start_step": 0}
    loader = pipeline.train_batches(dataset, settings.data, None if views is None else views.plan, **order)
    with doctor.closing_batches(loader) as loader:
        batch = _for_step(definition, next(loader))
        transfer, placed = _time(lambda: compiled.to_devices(batch))
        key = compiled.key()
        augment, _ = _time(
            jax.jit(lambda key, video: steps.prepare_training(definition, key, video)), key, placed["video"]
        )
        began, state = time.perf_counter(), compiled.initialise()
        state, _ = jax.block_until_ready(compiled.train_step(state, placed, key))
        compile_seconds = time.perf_counter() - began
        alone = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(compiled.train_step(state, placed, key))
            alone.append(time.perf_counter() - began)
        waits, whole = _run_loop(definition, compiled, state, key, loader, batches=batches, seconds=seconds)
    loop = len(waits), statistics.mean(waits), statistics.mean(whole)
    return DeviceTimes(transfer, augment, statistics.median(alone), compile_seconds, *loop)


def _run_loop(
    definition, compiled, state, key, loader, *, batches: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Return the seconds that steps waited for their batch, and those they took in all."""
    waits, whole, began = [], [], time.perf_counter()
    while len(waits) < batches and (len(waits) < 2 or time.perf_counter() - began < seconds):
        start = time.perf_counter()
        batch = _for_step(definition, next(loader))
        waits.append(time.perf_counter() - start)
        # The training loop does not wait for the device, but its queue is short: on average this is the same.
        state, _ = jax.block_until_ready(compiled.train_step(state, compiled.to_devices(batch), key))
        whole.append(time.perf_counter() - start)
    skipped = _WARM_UP if len(waits) > 2 * _WARM_UP else 0
    return waits[skipped:], whole[skipped:]


def _for_step(definition: steps.Definition, batch: pipeline.Batch) -> pipeline.Batch:
    return {name: batch[name] for name in steps.batch_fields(definition)}


def _time(function: Callable, *arguments):
    """Return median seconds of a call, after one that may compile, and its last result."""
    times, result = [], jax.block_until_ready(function(*arguments))
    for _ in range(_REPEATS):
        began = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return statistics.median(times), result
