"""Fine-tuning: a linear head on the mean token of a level, and all that is below it, trained by labels.

The recipe is that of VideoMAE (Tong et al., arXiv 2203.12602, its table of fine-tuning settings): AdamW, warm-up and
cosine, rates that fall from layer to layer downwards, mixup (1710.09412) or cutmix (1905.04899), smoothed labels.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hvt_jax.engine import state as state_lib
from hvt_jax.engine import steps
from hvt_jax.engine.steps import Definition
from hvt_jax.hierarchy import encoded_levels
from hvt_jax.model import s3d
from hvt_jax.objectives import supervised

WEIGHT_DECAY, B1, B2 = 0.05, 0.9, 0.999
WARMUP_SHARE = 0.1  # of all steps
CLIP_NORM = 1.0  # largest norm of the gradient
_BATCH = 256  # videos a step that the learning rate is given for
_HEAD_STD = 1e-3  # of the fresh head: it begins by knowing nothing
_OUT = -1e9  # logit of a class that the label set does not have
_MIXED_BY_CUTMIX = 0.5  # share of the steps, where both are on

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How the network is fine-tuned.

    Attributes:
      epochs: passes over the training videos.
      rate: peak learning rate for 256 videos a step; it grows with the batch.
      layer_decay: learning rate of a layer over that of the layer above it.
      mixup: alpha of the Beta distribution of mixup; 0 = off.
      cutmix: the same of cutmix.
      smoothing: share of a label that is spread over all classes.
    """

    epochs: int = 30
    rate: float = 1e-3
    layer_decay: float = 0.75
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1


class FinetuneState(NamedTuple):
    """What a step moves: parameters {"model", "head"}, running statistics, and the optimizer's state."""

    step: jax.Array
    params: Tree
    stats: Tree
    opt_state: Any


def initialise(params: Tree, stats: Tree, width: int, num_classes: int, key: jax.Array) -> FinetuneState:
    """Return a state that begins with the model's parameters and a fresh head [width, num_classes]."""
    head = {"kernel": _HEAD_STD * jax.random.normal(key, (width, num_classes)), "bias": jnp.zeros(num_classes)}
    params = {"model": params, "head": head}
    return FinetuneState(jnp.zeros((), jnp.int32), params, stats, optax.scale_by_adam(B1, B2).init(params))


def layer_scales(params: Tree, definition: Definition, level: str, layer_decay: float) -> Tree:
    """Return what multiplies the rate of every parameter: 1 for the head, times `layer_decay` for each layer down.

    Layers are counted from the stem through the levels; positions, class token and input map of a level belong to its
    first layer. What is not below `level`, and all predictors, have 0. S3D has the layers `model.s3d.LAYERS`.
    """
    if definition.settings.model.encoder == "s3d":
        return jax.tree_util.tree_map_with_path(functools.partial(_s3d_scale, layer_decay), params)
    below = definition.hierarchy.levels[: definition.hierarchy.levels.index(level) + 1]
    start, total = {}, 0
    for name in encoded_levels(below):
        start[name] = total
        total += getattr(definition.settings.model, name).depth

    def scale(path, _) -> float:
        names = [key.key for key in path]
        if names[0] == "head":
            return 1.0
        if names[1] == "stem":
            return layer_decay ** (total + 1)
        if names[2] not in start or names[3] == "predictors":
            return 0.0
        depth = getattr(definition.settings.model, names[2]).depth
        layers = [int(name.removeprefix("layer_")) + 1 for name in names if str(name).startswith("layer_")]
        is_last = names[3] in ("output_norm", "state_norm") or names[3:5] == ["transformer", "norm"]
        number = layers[0] if layers else depth if is_last else min(1, depth)
        return layer_decay ** (total + 1 - start[names[2]] - number)

    return jax.tree_util.tree_map_with_path(scale, params)


def _s3d_scale(layer_decay: float, path: tuple, _: jax.Array) -> float:
    names = [key.key for key in path]  # such as model, levels, clip, mixed_5c, ...
    if names[0] == "head":
        return 1.0
    return layer_decay ** (len(s3d.LAYERS) - s3d.LAYERS.index(names[3])) if names[1] == "levels" else 0.0


def mix(
    key: jax.Array, video: jax.Array, targets: jax.Array, settings: FinetuneSettings
) -> tuple[jax.Array, jax.Array]:
    """Return videos and targets, each mixed with those of the video at the mirrored place in the batch.

    One draw for the whole batch, the same for all frames. Mixup weighs all pixels alike, cutmix takes a box from the
    other video; targets are weighed by the share of the pixels.

    Args:
      key: of this step.
      video: float [B, T, Y, X, 3].
      targets: [B, classes].
      settings: with `mixup` and `cutmix` 0 nothing is mixed.
    """
    if settings.mixup == settings.cutmix == 0:
        return video, targets
    keys = jax.random.split(key, 5)
    rows, columns = video.shape[2:4]
    weights = []
    if settings.mixup:
        weights.append(jnp.full((rows, columns), jax.random.beta(keys[0], settings.mixup, settings.mixup)))
    if settings.cutmix:
        side = jnp.sqrt(1 - jax.random.beta(keys[1], settings.cutmix, settings.cutmix))
        middle_y, middle_x = jax.random.uniform(keys[2]) * rows, jax.random.uniform(keys[3]) * columns
        in_rows = jnp.abs(jnp.arange(rows) + 0.5 - middle_y) < side * rows / 2
        in_columns = jnp.abs(jnp.arange(columns) + 0.5 - middle_x) < side * columns / 2
        weights.append(1.0 - (in_rows[:, None] & in_columns))
    cuts = jax.random.bernoulli(keys[4], _MIXED_BY_CUTMIX)
    weight_YX = weights[0] if len(weights) == 1 else jnp.where(cuts, weights[1], weights[0])
    share = weight_YX.mean()
    weight_YX1 = weight_YX[..., None].astype(video.dtype)
    return weight_YX1 * video + (1 - weight_YX1) * video[::-1], share * targets + (1 - share) * targets[::-1]


def build_step(definition: Definition, level: str, settings: FinetuneSettings, batch_size: int) -> Callable:
    """Return `step(state, batch, key, num_steps, num_classes) -> (state, loss)`, pure.

    `batch` has `video` uint8 [B, T, Y', X', 3], `label` int [B] and `valid` bool [B]; a video that is not valid, or is
    mixed with such a one, counts in nothing. The head may have more classes than `num_classes`.
    """

    def step(state: FinetuneState, batch: dict, key: jax.Array, num_steps: jax.Array, num_classes: jax.Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        is_class_K = jnp.arange(state.params["head"]["bias"].shape[0]) < num_classes
        targets_BK = (batch["label"][:, None] == jnp.arange(len(is_class_K))).astype(jnp.float32)
        targets_BK = (1 - settings.smoothing) * targets_BK + settings.smoothing * is_class_K / num_classes
        video = steps.prepare_windows(definition, keys[0], batch["video"])
        video, targets_BK = mix(keys[1], video, targets_BK, settings)
        counts_B = batch["valid"] & batch["valid"][::-1] if settings.mixup or settings.cutmix else batch["valid"]

        def loss(params):
            logits_BK, stats = _logits(definition, level, (params, state.stats), video, valid=counts_B, key=keys[2])
            log_probs_BK = jax.nn.log_softmax(jnp.where(is_class_K, logits_BK, _OUT))
            losses_B = -(targets_BK * jnp.where(is_class_K, log_probs_BK, 0)).sum(axis=1)
            return jnp.where(counts_B, losses_B, 0).sum() / jnp.maximum(counts_B.sum(), 1), stats

        (total, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        norm = optax.tree.norm(gradients)
        gradients = jax.tree.map(lambda leaf: leaf * jnp.minimum(1, CLIP_NORM / jnp.maximum(norm, 1e-12)), gradients)
        updates, opt_state = optax.scale_by_adam(B1, B2).update(gradients, state.opt_state)
        rate = _rate(state.step, num_steps, settings.rate * batch_size / _BATCH)
        scales = layer_scales(state.params, definition, level, settings.layer_decay)

        def move(param, update, scale):
            return param - rate * scale * (update + (WEIGHT_DECAY * param if param.ndim > 1 else 0))

        params = jax.tree.map(move, state.params, updates, scales)
        return FinetuneState(state.step + 1, params, stats, opt_state), total

    return step


def build_predict(definition: Definition, level: str) -> Callable:
    """Return `f(params, stats, video) -> {"logits": [B, V, classes]}` for videos [B, T, ...] or [B, V, T, ...]."""

    def predict(params, stats, video):
        views_BV = video if video.ndim == 6 else video[:, None]
        flat = steps.prepare_evaluation(definition, views_BV.reshape(-1, *views_BV.shape[2:]))
        logits_NK, _ = _logits(definition, level, (params, stats), flat)
        return {"logits": logits_NK.reshape(*views_BV.shape[:2], -1)}

    return predict


def _logits(definition: Definition, level: str, variables: tuple[Tree, Tree], video, *, valid=None, key=None):
    """Return [B, classes] and the new statistics; with a key of dropout as in training, without as in evaluation."""
    params, stats = variables
    model = state_lib.merge(definition.graphdef, params["model"], stats)
    outputs = supervised.encode(model, video, train=key is not None, valid=valid, key=key)
    features_BD = outputs[level].tokens.astype(jnp.float32).mean(axis=1)
    logits_BK = features_BD @ params["head"]["kernel"] + params["head"]["bias"]
    levels = definition.hierarchy.levels
    above = levels[levels.index(level) + 1 :]
    new = state_lib.statistics(model)
    if "levels" in new:  # what is above is not asked, so its statistics stay and it is not computed
        kept = {name: stats["levels"][name] for name in above if name in new["levels"]}
        new = new | {"levels": new["levels"] | kept}
    return logits_BK, new


def _rate(step: jax.Array, num_steps: jax.Array, peak: float) -> jax.Array:
    warmup = jnp.maximum(1.0, WARMUP_SHARE * num_steps)
    done = jnp.clip((step - warmup) / jnp.maximum(1.0, num_steps - warmup), 0, 1)
    return peak * jnp.where(step < warmup, (step + 1) / warmup, 0.5 * (1 + jnp.cos(jnp.pi * done)))
