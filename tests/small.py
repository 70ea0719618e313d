"""Small settings, batches and runs that the tests share: seconds on a CPU, every width different.

What is compiled or initialised is kept for the session, so that tests of equal settings share it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import default
from hvt_jax.engine import optim, steps
from hvt_jax.engine.steps import Definition
from hvt_jax.model import s3d
from hvt_jax.settings import Settings, read_settings

BATCH = 4
NUM_CLASSES = 3  # where the method is trained on labels
NO_AUGMENTATION = {
    "augmentation.resized_crop_scale": (1.0, 1.0),
    "augmentation.flip_probability": 0.0,
    "augmentation.color_jitter_probability": 0.0,
    "augmentation.greyscale_probability": 0.0,
    "augmentation.blur_probability": 0.0,
}
# Tests of what is not about the objective hit their targets, as the original does.
HIT_TARGETS = {
    "objective.distance": "smooth_l1",
    "objective.patch_targets": "uniform",
    "objective.patch_weight": 1.0,
    "objective.place_candidates": 16,
    "objective.regularizer_weight": 0.5,
    "model.hierarchy": "frame-clip",
    "model.num_clips": 1,
}
SMALL_SIZES = {
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 24,
    "model.stem.patch_size": 8,
    "model.stem.width": 4,
    "model.stem.channels": 4,
    "model.patch.width": 6,
    "model.frame.width": 8,
    "model.clip.width": 10,
    "model.sequence.width": 12,
    "evaluation.monitor_tokens": 16,
    "train.batch_size": BATCH,
    "optimizer.warmup_epochs": 0.0,
    "svt.num_local": 2,
    "svt.local_frames": 2,
    "svt.hidden": 8,
    "svt.bottleneck": 6,
    "svt.prototypes": 10,
    "brave.narrow_stride": 1,
    "brave.broad_frames": 8,
    "brave.broad_stride": 2,
    "brave.hidden": 8,
    "brave.width": 6,
    "jepa.mask_ratio": 0.7,
    "mae.mask_ratio": 0.7,
}
for _part in ("jepa.predictor", "mae.decoder"):
    SMALL_SIZES |= {f"{_part}.width": 8, f"{_part}.depth": 1, f"{_part}.num_heads": 2}
for _level in ("patch", "frame", "clip", "sequence"):
    SMALL_SIZES[f"model.{_level}.predictor_hidden"] = (8,)
for _level in ("frame", "clip", "sequence"):
    _sizes = {"depth": 1, "num_heads": 2, "head_width": 4, "mlp_width": 12}
    SMALL_SIZES |= {f"model.{_level}.{_name}": _size for _name, _size in _sizes.items()}
STEPS = {"steps_per_epoch": 4, "num_steps": 8}


def small_config(base: ConfigDict | None = None, **overrides) -> ConfigDict:
    """Return a small locked config; `**{"model.hierarchy": "frame-clip"}` overrides a field by its dotted name.

    Frames of 16x24 make 2x3 patches; a hierarchy that reaches `sequence` gets 2 clips of 2 frames.
    `causal=True` stands for all levels.
    """
    config = (default.get_config() if base is None else base).copy_and_resolve_references()
    causal = overrides.pop("causal", False)
    fields = {**SMALL_SIZES, **(NO_AUGMENTATION | HIT_TARGETS if base is None else {})}
    for level in ("frame", "clip", "sequence"):
        fields[f"model.{level}.causal"] = causal or config.model[level].causal
    fields |= overrides
    if "sequence" in fields.get("model.hierarchy", config.model.hierarchy) and "model.num_clips" not in overrides:
        fields["model.num_clips"] = 2
    config.update_from_flattened_dict(fields)
    return config.lock()


def small_settings(**overrides) -> Settings:
    return read_settings(small_config(**overrides))


def define(**overrides) -> Definition:
    return _define(small_settings(**overrides))


@functools.cache
def _define(settings: Settings) -> Definition:
    return steps.define(settings, NUM_CLASSES)


def batch_of(definition: Definition, seed: int = 0, size: int = BATCH) -> dict[str, np.ndarray]:
    """Return `size` valid random videos, uint8 [B, T, Y, X, 3], or views of them, and what else a step wants."""
    rng, shapes = np.random.default_rng(seed), steps.batch_shapes(definition, size)
    batch = jax.tree.map(lambda shape: np.ones(shape.shape, shape.dtype), shapes)
    batch["video"] = jax.tree.map(lambda shape: rng.integers(0, 256, shape.shape, np.uint8), shapes["video"])
    labels = {"label": np.arange(size, dtype=np.int32) % NUM_CLASSES}
    return batch | {name: labels[name] for name in labels if name in batch}


def optimizer(definition: Definition):
    return optim.build_optimizer(definition.settings.optimizer, definition.groups, **STEPS)


def initialise(definition: Definition):
    return steps.build_initialise(definition, optimizer(definition))


def new_state(definition: Definition, seed: int = 0):
    """Return a fresh state, in containers of its own."""
    return jax.tree.map(lambda x: x, _state(definition, seed, jax.config.jax_enable_x64))


def drawn_variables(definition: Definition, seed: int = 0):
    """Return (parameters, statistics) of any numbers, drawn without a program: for tests that do not train them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        middle = float(path[-1].key in ("scale", "var"))
        return rng.uniform(middle - 0.5, middle + 0.5, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(lambda: steps.initial_variables(definition, 0))
    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def train_step(definition: Definition):
    """Return the compiled step; its state is not donated, so that a test can compare before and after."""
    return _train_step(definition)


def loss_and_gradients(definition: Definition):
    """Return compiled `f(params, stats, batch, key)`: ((total, (losses, ..., statistics)), gradients)."""
    return _loss_and_gradients(definition)


@functools.cache
def _state(definition: Definition, seed: int, x64: bool):
    # Not compiled as a whole: most of its small operations are those of other models, too.
    return initialise(definition)(jax.random.key(seed))


@functools.cache
def _train_step(definition: Definition):
    return jax.jit(steps.build_train_step(definition, optimizer(definition), num_steps=STEPS["num_steps"]))


@functools.cache
def _loss_and_gradients(definition: Definition):
    def run(params, stats, batch, key):
        video = steps.prepare_training(definition, key, batch["video"])
        draws = steps.draw_targets(definition, key, video, batch.get("frame_valid"))
        weights = steps.edge_weights(definition, jnp.zeros((), jnp.int32), STEPS["num_steps"])
        loss = steps.build_loss(definition, {**batch, "video": video}, draws, weights)
        return jax.value_and_grad(loss, has_aux=True)(params, stats, key)

    return jax.jit(run)


def named_leaves(tree) -> dict[str, np.ndarray]:
    """Return {path: numpy array}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def largest_difference(one, other) -> float:
    """Return the largest difference of two trees with the same paths.

    Relative to the largest value of the array it is in, or to a tenth of the largest of all arrays where
    that is more: some gradients are rounding noise.
    """
    one, other = ({name: leaf.astype(float) for name, leaf in named_leaves(tree).items()} for tree in (one, other))
    assert one.keys() == other.keys()
    sizes = {name: np.abs(leaf).max(initial=0) for name, leaf in one.items()}
    floor = 0.1 * max(sizes.values())
    return float(max(np.abs(one[name] - other[name]).max(initial=0) / max(sizes[name], floor) for name in one))


def predicting(hierarchy, side=True):
    """Return a hierarchy with all predictions that are possible."""
    return hierarchy.with_edges(hierarchy.possible_edges(side=side))


def shorten_s3d(monkeypatch):
    """Leave S3D three of its nine blocks, those behind halving and the last: others are alike, and long to trace."""
    kept = ("mixed_4b", "mixed_5b", "mixed_5c")
    monkeypatch.setattr(s3d, "BLOCKS", {name: s3d.BLOCKS[name] for name in kept})
