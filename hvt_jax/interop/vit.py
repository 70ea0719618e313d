"""Image models of timm's names (timm's ViT, DINO, DINOv2 without registers) as stem and frame level of a hierarchy."""

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine import state as state_lib
from hvt_jax.interop import convert, vit_reference
from hvt_jax.interop.safetensors_io import save_variables
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.nn.transformer import layer_name
from hvt_jax.run import leaves
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings.geometry import model_hierarchy
from hvt_jax.settings.model_settings import LevelSettings, ModelSettings, PatchSettings, StemSettings

PIXELS = {  # mean and deviation that the image model was trained with
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # DINO, most of timm
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # timm's augreg
}
_HEADS = re.compile(r"head\.|mask_token$")  # of other tasks than encoding; anything else must find its place
_TOLERANCE = 1e-3  # largest difference allowed, over the largest value of a stage
_FIELDS = {"weight": "scale", "bias": "bias"}
_PLACES = {"norm1": "attention_norm", "norm2": "mlp_norm"}
_PLACES |= {"attn.qkv": "attention/qkv", "attn.proj": "attention/out", "mlp.fc1": "mlp_hidden", "mlp.fc2": "mlp_out"}
_SCALED = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}


class Imported(NamedTuple):
    """What was imported.

    Attributes:
      overrides: fields of a config that make stem and frame level fit.
      values: numbers.
      resized: the grids of patches from and to which positions were interpolated; None if they were not.
      unused: names of the file that belong to heads.
      differences: of every stage, the largest, over its largest value, from `vit_reference`.
    """

    overrides: dict[str, Any]
    values: int
    resized: tuple[tuple[int, int], tuple[int, int]] | None
    unused: list[str]
    differences: dict[str, float]


def import_weights(
    weights: str,
    output: str,
    *,
    size: tuple[int, int] | None = None,
    head_width: int = 64,
    pixels: str = "imagenet",
    grid: tuple[int, int] | None = None,
) -> Imported:
    """Write `model.safetensors` and `config.json` (fields to override) of an image model to the folder `output`.

    Nothing is written unless every stage of the frame level gives what the image model does.

    Args:
      weights: .safetensors, .npz, .pt or .pth with timm's names.
      output: made if need be; files of these names in it are replaced.
      size: height and width in pixels of the frames to come; None = those the positions are for.
      head_width: K; 64 in ViT-Ti, S, B and L.
      pixels: one of `PIXELS`.
      grid: rows and columns of patches that the positions are for; None = a square.

    Raises:
      CheckpointError: in one line, if the file cannot be read or has what the frame level has not.
    """
    state, unused = _split_heads(without_prefixes(convert.read_checkpoint(weights)), weights)
    patch = _shape(state, "patch_embed.proj.weight", 4, weights)[-1]
    old = grid or _square_grid(state, weights)
    new = (size[0] // patch, size[1] // patch) if size else old
    if size and (size[0] % patch or size[1] % patch or min(new) < 1):
        raise CheckpointError(f"frames of {size[0]}x{size[1]} pixels cannot be cut into patches of {patch}")
    state = dict(state, pos_embed=fit_positions(state["pos_embed"], old, new))
    settings = frame_settings(state, head_width, weights)
    frames = {"height": new[0] * patch, "width": new[1] * patch}
    params = to_our_tree(state, weights)
    model = build_model(settings, params, weights, **frames)
    differences = compare(model, state, settings.frame.num_heads, **frames)
    overrides = _overrides(settings, frames, pixels)
    os.makedirs(output, exist_ok=True)
    save_variables(os.path.join(output, convert.VARIABLES_FILE), params, {})
    with open(os.path.join(output, convert.CONFIG_FILE), "w", encoding="utf-8") as file:
        json.dump(overrides, file, indent=2)
    values = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Imported(overrides, values, (old, new) if old != new else None, unused, differences)


def without_prefixes(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `state` under timm's bare names: `module.` and `backbone.` are what wrappers and DINO put before them."""
    for prefix in ("module.", "backbone."):
        if any(name == f"{prefix}cls_token" or name.startswith(f"{prefix}backbone.") for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    return dict(state)


def _split_heads(state: dict[str, np.ndarray], path: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the encoder's arrays, and the names of those of heads."""
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight", "blocks.0.norm1.weight"):
        if name not in state:
            raise CheckpointError(f"{path} has no {name!r}; only ViTs with a class token by timm's names are read")
    unused = sorted(name for name in state if _HEADS.match(name))
    return {name: array for name, array in state.items() if name not in unused}, unused


def _shape(state: Mapping[str, np.ndarray], name: str, ndim: int, path: str) -> tuple[int, ...]:
    shape = state[name].shape
    if len(shape) != ndim or (ndim == 4 and (shape[1] != 3 or shape[2] != shape[3])):
        raise CheckpointError(f"{path}: {name} has shape {shape}; only square patches of RGB are read")
    return shape


def _square_grid(state: Mapping[str, np.ndarray], path: str) -> tuple[int, int]:
    rows = _shape(state, "pos_embed", 3, path)[1]
    for patches in (rows - 1, rows):  # with the class token's or without it
        if math.isqrt(patches) ** 2 == patches:
            return (math.isqrt(patches),) * 2
    raise CheckpointError(f"{path}: {rows} positions are no square grid; name its rows and columns (--grid)")


def fit_positions(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return positions [1, 1 + P', D] for a new grid of patches, bicubic and antialiased, as timm resamples them.

    Args:
      table: [1, 1 + P, D], the class token's first, or [1, P, D], where it has none (then zeros).
      old: rows and columns of its grid.
      new: rows and columns of the new one.

    Raises:
      CheckpointError: if `old` is not its grid.
    """
    patches, (_, rows, width) = old[0] * old[1], table.shape
    if rows - patches not in (0, 1):
        raise CheckpointError(f"{rows} positions are not those of {old[0]}x{old[1]} patches")
    own = table[:, : rows - patches] if rows > patches else np.zeros((1, 1, width), table.dtype)
    if old == new:
        return np.concatenate([own, table[:, rows - patches :]], axis=1)
    square = jnp.asarray(table[0, rows - patches :], jnp.float32).reshape(*old, width)
    resized = jax.image.resize(square, (*new, width), "cubic", antialias=True)
    return np.concatenate([own, np.asarray(resized).reshape(1, -1, width)], axis=1)


def frame_settings(state: Mapping[str, np.ndarray], head_width: int, path: str) -> ModelSettings:
    """Return the settings of a model whose frame level is the image model; of the others only that they are there."""
    width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
    if width % head_width:
        raise CheckpointError(f"{path}: width {width} has no heads of width {head_width}; name another --head_width")
    shared = {"width": width, "output_norm": "none", "predictor_hidden": ()}
    shared |= {"predictor_hidden_norm": "none", "predictor_norm": "none"}
    frame = LevelSettings(
        **shared,
        depth=vit_reference.depth_of(state),
        num_heads=width // head_width,
        head_width=head_width,
        mlp_width=len(state["blocks.0.mlp.fc1.weight"]) if "blocks.0.mlp.fc1.weight" in state else 4 * width,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        norm_epsilon=vit_reference.NORM_EPSILON,
        dropout=0.0,
        causal=False,
        remat=False,
        groups_at_once=0,
        scan=False,
    )
    stem = StemSettings(kind="linear", patch_size=patch, width=1, channels=3, norm_momentum=0.9, trainable=True)
    levels = {level: frame for level in ("frame", "clip", "sequence")}
    return ModelSettings(
        encoder="hierarchy",
        hierarchy="frame-clip",
        num_clips=1,
        compute_dtype="float32",
        attention="xla",
        initial_weights="",
        stem=stem,
        patch=PatchSettings(**shared),
        **levels,
    )


def to_our_tree(state: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """Return parameters by our paths, all of `state` used.

    LayerScale goes into the map before it, which gives the same numbers.

    Raises:
      CheckpointError: naming what has no place here.
    """
    state = {name: np.asarray(array, np.float32) for name, array in state.items()}
    for name in [name for name in state if name.split(".", 2)[-1] in _SCALED]:
        gamma, target = state.pop(name), f"{name.rsplit('.', 2)[0]}.{_SCALED[name.split('.', 2)[-1]]}"
        state[f"{target}.weight"] = gamma[:, None] * state[f"{target}.weight"]
        state[f"{target}.bias"] = gamma * state[f"{target}.bias"]
    found = {}
    for name, array in state.items():
        place = _place(name)
        if place is None:
            raise CheckpointError(f"{path}: {name!r} has no place in a frame level; models with it are not read")
        found[place] = _to_our_layout(name, array)
    return leaves.nest(found)


def _place(name: str) -> str | None:
    """Return our path of timm's `name`, None if there is none."""
    fixed = {"cls_token": "class_token/table", "pos_embed": "positions/table"}
    fixed |= {f"norm.{field}": f"transformer/norm/{ours}" for field, ours in _FIELDS.items()}
    if name in fixed:
        return f"levels/frame/{fixed[name]}"
    part, _, field = name.rpartition(".")
    if field not in _FIELDS:
        return None
    kind = "kernel" if field == "weight" else "bias"
    if part == "patch_embed.proj":
        return f"stem/embedding/{kind}"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", part)
    if block is None or block[2] not in _PLACES:
        return None
    kind = _FIELDS[field] if block[2].startswith("norm") else kind
    return f"levels/frame/transformer/layers/{layer_name(int(block[1]))}/{_PLACES[block[2]]}/{kind}"


def _to_our_layout(name: str, array: np.ndarray) -> np.ndarray:
    if name == "patch_embed.proj.weight":  # [D, 3, y, x]; patches of ours are in (y, x, c) order
        return array.transpose(2, 3, 1, 0).reshape(-1, len(array))
    if name in ("cls_token", "pos_embed"):
        return array[0]
    return array.T if array.ndim == 2 else array


def build_model(settings: ModelSettings, params: dict[str, Any], path: str, *, height: int, width: int) -> Pyramid:
    """Return a model of the imported stem and frame level, with nothing but zeros above them.

    Raises:
      CheckpointError: naming what is missing, or has another shape.
    """
    hierarchy = model_hierarchy(settings, num_frames=1, height=height, width=width)
    fresh, stats = jax.eval_shape(lambda: state_lib.initial_variables(settings, hierarchy, key=0))
    own = {"stem": fresh["stem"], "levels": {"frame": fresh["levels"]["frame"]}}
    leaves.check_fit(path, leaves.describe(leaves.flatten(params)), leaves.flatten(own), partial=False)
    clip, stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), (fresh["levels"]["clip"], stats))
    whole = {"stem": params["stem"], "levels": params["levels"] | {"clip": clip}}
    return state_lib.merge(state_lib.graph_definition(settings, hierarchy), whole, stats)


def compare(
    model: Pyramid, state: Mapping[str, np.ndarray], num_heads: int, *, height: int, width: int
) -> dict[str, float]:
    """Return for every stage the largest difference from `vit_reference`, over its largest value, on an image of noise.

    Raises:
      CheckpointError: if one is too large.
    """
    image = np.random.default_rng(0).normal(size=(1, height, width, 3)).astype(np.float32)
    ours, found = jax.device_get(jax.jit(lambda image: stages(model, image))(image)), {}
    for name, tokens in vit_reference.stages(state, image, num_heads):
        found[name] = float(np.abs(ours[name] - tokens).max() / np.abs(tokens).max())
        if not found[name] <= _TOLERANCE:
            raise CheckpointError(
                f"stage {name} differs by {found[name]:.1e} of its largest value; nothing was written"
            )
    found["frame token"] = float(np.abs(ours["frame token"] - tokens[:, 0]).max() / np.abs(tokens[:, 0]).max())
    return found


def stages(model: Pyramid, images: jax.Array) -> dict[str, jax.Array]:
    """Return the tokens [B, P or 1 + P, D] of the stages of `vit_reference.stages`, and the `frame token` [B, D].

    `images` are float [B, Y, X, 3], normalised.
    """
    frame, video = model.levels["frame"], images[:, None]
    patches, _ = model.stem(video, train=False)
    found, tokens = {"patches": patches}, patches
    first = jnp.broadcast_to(frame.class_token(tokens.dtype), (len(images), 1, tokens.shape[-1]))
    tokens = jnp.concatenate([first, tokens], axis=1) + frame.positions(tokens.dtype)
    found["positions"] = tokens
    for number in range(frame.transformer.depth):
        tokens = frame.transformer.layers[layer_name(number)](tokens, None, causal=False)
        found[layer_name(number)] = tokens
    return found | {"norm": frame.transformer.norm(tokens), "frame token": frame(patches, train=False).raw[:, 0]}


def _overrides(settings: ModelSettings, frames: dict[str, int], pixels: str) -> dict[str, Any]:
    mean, std = PIXELS[pixels]
    frame = settings.frame
    fields = ("width", "depth", "num_heads", "head_width", "mlp_width", "qkv_bias", "norm_epsilon", "causal")
    found: dict[str, Any] = {f"data.{name}": value for name, value in frames.items()}
    found |= {"data.mean": mean, "data.std": std}
    found |= {"model.stem.kind": "linear", "model.stem.patch_size": settings.stem.patch_size}
    found |= {"model.patch.width": frame.width, "model.patch.output_norm": "none"}
    return found | {f"model.frame.{name}": getattr(frame, name) for name in fields}
