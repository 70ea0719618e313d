"""The proof that no gradient crosses a level border, or a list of where it does.

For every level, the gradient of the losses it owns with respect to every parameter of the model. With
stopped targets all blocks but a level's own are exactly zero, not merely small: in numbers of one batch (`audit`), and
in the program itself, where no path leads there whatever the input (`open_paths`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine import dataflow, steps
from hvt_jax.engine.groups import label_norms, parameter_labels
from hvt_jax.engine.state import Tree
from hvt_jax.engine.steps import Definition

Table = dict[str, dict[str, float]]


def examine(definition: Definition, num_videos: int) -> tuple[str, int]:
    """Return what the command `audit` prints, and the number of leaks in it.

    A leak leads where the method does not mean to (`Method.reach`); a border may also be crossed by design.
    """
    table = audit(definition, num_videos)
    found = {
        (owner, label): f"the losses of {owner} move {label} (gradient norm {norm:.3e})"
        for owner, label, norm in crossings(table)
    }
    leaks = {pair: f"leak: {text}" for pair, text in found.items() if not _is_meant(definition, *pair)}
    by_design = {pair: f"crossed by design: {text}" for pair, text in found.items() if pair not in leaks}
    for owner, label in open_paths(definition, num_videos):
        if (owner, label) not in found:
            kind = by_design if _is_meant(definition, owner, label) else leaks
            kind[owner, label] = f"open: a path of the program leads from the losses of {owner} to {label}"
    if leaks:
        verdict = f"{len(leaks)} leaks"
    elif by_design:
        verdict = f"gradients cross borders by design: {definition.method.borders}; no path leads anywhere else"
    else:
        verdict = "no leak: no path of the program leads between levels, whatever the input"
    return "\n".join([format_table(table), *leaks.values(), *by_design.values(), verdict]), len(leaks)


def _is_meant(definition: Definition, owner: str, label: str) -> bool:
    return label in definition.method.reach(owner, definition.hierarchy.levels)


def audit(definition: Definition, num_videos: int) -> Table:
    """Return the table of a fresh model on random videos; see `isolation_table`."""
    seed, shapes = definition.settings.seed, steps.batch_shapes(definition, num_videos)
    params, stats = steps.initial_variables(definition, seed)
    draw, zeros = np.random.default_rng(seed).integers, lambda shape: np.zeros(shape.shape, shape.dtype)
    batch = jax.tree.map(zeros, shapes)  # labels of the first class
    batch["video"] = jax.tree.map(lambda shape: draw(0, 256, shape.shape, np.uint8), shapes["video"])
    for field in ("valid", "frame_valid"):
        batch |= {field: jax.tree.map(np.ones_like, batch[field])} if field in batch else {}
    return isolation_table(definition, params, stats, batch, jax.random.key(seed))


def open_paths(definition: Definition, num_videos: int) -> list[tuple[str, str]]:
    """Return (level, foreign label) wherever a level's losses could move parameters of another level.

    Of a method whose losses are not the levels', the group that owns them (`Method.owners`) stands for the level.

    Read off the traced program of the gradient, which is neither compiled nor run: an empty list is a proof for every
    input and all parameters. `audit` shows the other half, that a level's own blocks are not zero.
    """
    seed, batch = definition.settings.seed, steps.batch_shapes(definition, num_videos)
    variables = jax.eval_shape(lambda: steps.initial_variables(definition, seed))
    owners = definition.method.owners(definition.hierarchy.levels)
    shares = {owner: jax.ShapeDtypeStruct((), jnp.float32) for owner in owners}

    def gradients(shares, params, stats, batch):
        key = jax.random.key(seed)
        return jax.grad(_weighted_losses, argnums=1)(shares, params, definition, stats, batch, key)

    reached = dataflow.reached_outputs(gradients, shares, *variables, batch)
    labels = jax.tree.leaves(parameter_labels(variables[0], definition.groups))
    sources = jax.tree.leaves(reached, is_leaf=lambda x: isinstance(x, frozenset))
    found = {(level, label) for label, levels in zip(labels, sources, strict=True) for level in levels}
    order = [(owner, label) for owner in owners for label in definition.groups]
    return [pair for pair in order if pair in found and pair[1].split("/")[0] != pair[0]]


def isolation_table(
    definition: Definition, params: Tree, stats: Tree, batch: Mapping[str, jax.Array], key: jax.Array
) -> Table:
    """Return {level whose losses these are: {label of parameters: norm of the gradient}}.

    A level's losses are those of its edges, each with weight 1, and its own regulariser; see `Method.owned_losses`.
    Dropout is on if the config has it, as in training; nothing is updated.

    Args:
      definition: of the run.
      params: parameters.
      stats: running statistics.
      batch: as for a training step. With fewer than 4 videos a BatchNorm over one token a video leaves little
        gradient to see.
      key: random key of augmentation, draws and dropout.
    """
    labels, owners = parameter_labels(params, definition.groups), definition.method.owners(definition.hierarchy.levels)

    @jax.jit
    def norms(shares, params):
        gradients = jax.grad(_weighted_losses, argnums=1)(shares, params, definition, stats, batch, key)
        return label_norms(gradients, labels)

    table = {}
    for owner in owners:
        # One compilation serves all levels: the losses of the others are multiplied by an exact zero.
        shares = {other: jnp.float32(other == owner) for other in owners}
        found = jax.device_get(norms(shares, params))
        table[owner] = {label: float(found[label]) for label in definition.groups}
    return table


def crossings(table: Table) -> list[tuple[str, str, float]]:
    """Return (level, foreign label, norm) of every block that is not exactly zero; NaN is not zero."""
    return [
        (level, label, norm)
        for level, row in table.items()
        for label, norm in row.items()
        if label.split("/")[0] != level and norm != 0.0
    ]


def format_table(table: Table) -> str:
    """Return the table as text: a row per level's losses, a column per label; `0` is an exact zero."""
    labels = list(next(iter(table.values())))
    columns = {label: max(len(label), 9) + 2 for label in labels}
    width = max(len("gradient of"), *(len(f"{level} losses") for level in table))
    lines = [" " * width + "".join(f"{label:>{columns[label]}s}" for label in labels)]
    for level, row in table.items():
        cells = ("0" if row[label] == 0.0 else f"{row[label]:.3e}" for label in labels)
        cells = (f"{cell:>{columns[label]}s}" for cell, label in zip(cells, labels, strict=True))
        lines.append(f"{level + ' losses':{width}s}" + "".join(cells))
    return "\n".join(lines)


def _weighted_losses(shares, params, definition: Definition, stats, batch, key) -> jax.Array:
    keys = jax.random.split(key, 3)
    video = steps.prepare_training(definition, keys[0], batch["video"])
    draws = steps.draw_targets(definition, keys[1], video, batch.get("frame_valid"))
    weights = {str(edge): 1.0 for edge in definition.hierarchy.edges}
    loss = steps.build_loss(definition, {**batch, "video": video}, draws, weights)
    owned = definition.method.owned_losses(loss(params, stats, keys[2])[1].losses)
    return sum((share * owned[owner] for owner, share in shares.items()), jnp.zeros(()))
