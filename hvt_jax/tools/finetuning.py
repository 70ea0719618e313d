"""The loop of the protocol `finetune`: train by labels, choose the epoch by held-out videos, ask the test once."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from hvt_jax.data import pipeline
from hvt_jax.data.dataset import Dataset
from hvt_jax.engine import compilation, sharding
from hvt_jax.engine.steps import Definition
from hvt_jax.evaluation import finetune as finetune_lib
from hvt_jax.evaluation import grid_probes, measures
from hvt_jax.evaluation.finetune import FinetuneSettings, FinetuneState
from hvt_jax.evaluation.protocols import Answer, Answers
from hvt_jax.run.trained import Trained
from hvt_jax.tools import evaluation_data
from hvt_jax.tools.evaluation_data import EvaluationData, Split

Bar = Callable[[str, int], Callable[[int], object]]
_SEED = 0  # of head, order, augmentation and mixing


@dataclasses.dataclass(frozen=True)
class _Functions:
    """The compiled functions of one level, for any label set of at most so many classes."""

    mesh: jax.sharding.Mesh
    step: Callable
    predict: Callable


def finetune(
    data: EvaluationData, level: str, settings: FinetuneSettings, bar: Bar, trained: Trained
) -> tuple[Answers, np.ndarray]:
    """Return what the network, fine-tuned up to a level for every label set, says, and which test videos were readable.

    Args:
      data: both splits; a fifth of the training videos chooses the epoch and is not trained on.
      level: whose mean token the head sees.
      settings: the recipe.
      bar: called with a title and a total, returns what is called with how many more are done.
      trained: the model to begin with, an untrained one for training from scratch.
    """
    answers, rows = {}, np.zeros(0, np.int64)
    for label_set in data.label_names:
        answers[label_set], rows = _finetune_one(data, level, settings, bar, trained, label_set)
    return answers, rows


@functools.cache
def _compile(definition: Definition, level: str, settings: FinetuneSettings, batch_size: int) -> _Functions:
    mesh = sharding.make_mesh(definition.settings.train)
    whole, cut = sharding.replicated(mesh), sharding.by_batch(mesh)
    step = jax.jit(
        finetune_lib.build_step(definition, level, settings, batch_size),
        in_shardings=(whole, cut, whole, None, None),
        out_shardings=whole,
        compiler_options=compilation.compiler_options(),
    )
    return _Functions(mesh, step, compilation.compile_encode(finetune_lib.build_predict(definition, level), mesh))


def _finetune_one(data, level, settings, bar, trained, label_set) -> tuple[Answer, np.ndarray]:
    batch_size = trained.settings.train.batch_size
    functions = _compile(trained.definition, level, settings, batch_size)
    classes = {name: len(names) for name, names in data.label_names.items()}
    learn, held = grid_probes.hold_out(len(data.train.dataset))
    learn_set, held_set = (_part(data.train.dataset.with_primary(label_set), rows) for rows in (learn, held))
    width = getattr(trained.settings.model, level).width
    # Made by a compiled function: so it is on all devices.
    begin = jax.jit(
        functools.partial(finetune_lib.initialise, width=width, num_classes=max(classes.values())),
        out_shardings=sharding.replicated(functions.mesh),
    )
    state = begin(trained.params, trained.stats, key=jax.random.key(_SEED))
    steps = math.ceil(settings.epochs * len(learn_set) / batch_size)
    batches = pipeline.train_batches(learn_set, data.settings, batch_size=batch_size, seed=_SEED, start_step=0)
    evaluate = functools.partial(_predict, data, trained, functions, num_classes=classes[label_set])
    name = f"finetune {level}, {label_set}" + (", from scratch" if trained.step == 0 else "")
    advance, best = bar(name, steps), None
    try:
        for epoch in range(1, settings.epochs + 1):
            until = math.ceil(epoch * len(learn_set) / batch_size)
            state = _train(state, batches, functions, until, (steps, classes[label_set]), advance)
            logits, rows = evaluate(state, Split("train", held_set))
            labels = held_set.labels[label_set][rows]
            right = float(measures.is_right(measures.average_views(logits), labels).mean())
            if best is None or right >= best[0]:
                best = (right, epoch, state.params, state.stats)
    finally:
        batches.close()
    right, epoch, params, stats = best
    logits, rows = evaluate(state._replace(params=params, stats=stats), data.test)
    return Answer(measures.average_views(logits), {"epoch": epoch, "held_out_top1": 100.0 * right}), rows


def _part(dataset: Dataset, rows: np.ndarray) -> Dataset:
    return Dataset(dataset.root, tuple(dataset.videos[row] for row in rows), dataset.label_names)


def _train(
    state: FinetuneState, batches: Iterator, functions: _Functions, until: int, sizes: tuple[int, int], advance
) -> FinetuneState:
    """Return the state after step `until`."""
    key = jax.random.key(_SEED)
    for _ in range(int(state.step), until):
        batch = next(batches)
        placed = sharding.to_devices({name: batch[name] for name in ("video", "label", "valid")}, functions.mesh)
        state, _ = functions.step(state, placed, key, *map(float, sizes))
        advance(1)
    return state


def _predict(data, trained, functions, state, split: Split, *, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [readable, V, classes] of a split and the numbers of its readable videos."""
    parts, rows = [], []
    batches = evaluation_data.batches_of(trained.settings, data.settings, split)
    try:
        for batch in batches:
            placed = sharding.to_devices({name: batch[name] for name in ("video", "valid", "index")}, functions.mesh)
            found = jax.device_get(functions.predict(state.params, state.stats, placed))
            parts.append(found["logits"][found["valid"], :, :num_classes])
            rows.append(found["index"][found["valid"]])
    finally:
        batches.close()
    return np.concatenate(parts), np.concatenate(rows)
