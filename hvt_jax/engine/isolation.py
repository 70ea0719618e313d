"""The proof that no gradient crosses a level border, or a list of where it does.

For every level, the gradient of the losses it owns with respect to every parameter of the model. With
stopped targets all blocks but a level's own are exactly zero, not merely small.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.engine.labels import label_names, label_norms, parameter_labels
from hvt_jax.engine.state import Tree
from hvt_jax.engine.steps import Definition

Table = dict[str, dict[str, float]]


def audit(definition: Definition, num_videos: int) -> Table:
    """Return the table of a fresh model on random videos; see `isolation_table`."""
    settings = definition.settings
    params, stats = state_lib.initial_variables(
        settings.model, definition.geometry, side=settings.objective.side, key=settings.seed
    )
    shape = (num_videos, settings.data.num_frames, settings.data.height, settings.data.width, 3)
    video = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    batch = {"video": video, "valid": np.ones(num_videos, bool)}
    return isolation_table(definition, params, stats, batch, jax.random.key(settings.seed))


def isolation_table(
    definition: Definition, params: Tree, stats: Tree, batch: Mapping[str, jax.Array], key: jax.Array
) -> Table:
    """Return {level whose losses these are: {label of parameters: norm of the gradient}}.

    A level's losses are those of its edges, each with weight 1, and its own regulariser. Dropout is on
    if the config has it, as in training; nothing is updated.

    Args:
      definition: of the run.
      params: parameters.
      stats: running statistics.
      batch: `video` uint8 [B, T, Y', X', 3] and `valid` bool [B], as for a training step. With fewer
        than 4 videos a BatchNorm over one token a video leaves little gradient to see.
      key: random key of augmentation, draws and dropout.
    """
    labels = parameter_labels(params, definition.hierarchy)

    @jax.jit
    def norms(shares, params):
        gradients = jax.grad(_weighted_losses, argnums=1)(shares, params, definition, stats, batch, key)
        return label_norms(gradients, labels)

    table = {}
    for level in definition.hierarchy:
        # One compilation serves all levels: the losses of the others are multiplied by an exact zero.
        shares = {other: jnp.float32(other == level) for other in definition.hierarchy}
        found = jax.device_get(norms(shares, params))
        table[level] = {label: float(found[label]) for label in label_names(definition.hierarchy)}
    return table


def leaks(table: Table) -> list[tuple[str, str, float]]:
    """Return (level, foreign label, norm) of every block that is not exactly zero; NaN counts as a leak."""
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
    questions = steps.draw_questions(definition, keys[1], video.shape[0])
    loss = steps.build_loss(definition, video, batch["valid"], questions, {str(edge): 1.0 for edge in definition.edges})
    losses = loss(params, stats, keys[2])[1][0]
    total = jnp.zeros(())
    for level, share in shares.items():
        own = sum(losses.edges.get(level, {}).values())
        total = total + share * (own + losses.regularizers.get(level, 0.0))
    return total
