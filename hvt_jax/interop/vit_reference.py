"""The ViT of timm in plain numpy, by the names of its own state dict: what an import is compared with, stage by stage.

Written from the semantics that timm documents (`vision_transformer.py`, Dosovitskiy et al. 2021): pre-norm blocks, a
bias in qkv, exact GELU, LayerNorm with epsilon 1e-6, LayerScale where there is one. In double precision. A test holds
it against numbers that timm itself gave (`tests/goldens/timm_vit.npz`).
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

NORM_EPSILON = 1e-6
_erf = np.vectorize(math.erf, otypes=[np.float64])


def stages(state: Mapping[str, np.ndarray], images: np.ndarray, num_heads: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (stage, tokens float64 [B, P or 1 + P, D]): patches, positions, layer_00, layer_01, ..., norm.

    Args:
      state: timm's arrays by name; positions must be those of the images' grid, the class token's first.
      images: float [B, Y, X, 3], normalised.
      num_heads: H.
    """
    state = {name: np.asarray(array, np.float64) for name, array in state.items()}
    kernel = state["patch_embed.proj.weight"]
    size, (batch, rows, columns, _) = kernel.shape[-1], images.shape
    cut = images.astype(np.float64).reshape(batch, rows // size, size, columns // size, size, 3)
    tokens = np.einsum("byixjc,dcij->byxd", cut, kernel, optimize=True) + state["patch_embed.proj.bias"]
    tokens = tokens.reshape(batch, -1, tokens.shape[-1])
    yield "patches", tokens
    first = np.broadcast_to(state["cls_token"], (batch, 1, tokens.shape[-1]))
    tokens = np.concatenate([first, tokens], axis=1) + state["pos_embed"]
    yield "positions", tokens
    for number in range(depth_of(state)):
        layer = {name.split(".", 2)[2]: array for name, array in state.items() if name.startswith(f"blocks.{number}.")}
        tokens = tokens + layer.get("ls1.gamma", 1.0) * _attend(layer, _norm(layer, "norm1", tokens), num_heads)
        hidden = _linear(layer, "mlp.fc1", _norm(layer, "norm2", tokens))
        hidden = 0.5 * hidden * (1 + _erf(hidden / math.sqrt(2)))
        tokens = tokens + layer.get("ls2.gamma", 1.0) * _linear(layer, "mlp.fc2", hidden)
        yield f"layer_{number:02d}", tokens
    yield "norm", _norm(state, "norm", tokens)


def depth_of(state: Mapping[str, np.ndarray]) -> int:
    """Return the number of blocks in a state dict."""
    return 1 + max((int(name.split(".")[1]) for name in state if name.startswith("blocks.")), default=-1)


def _linear(state: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + NORM_EPSILON)
    return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attend(layer: Mapping[str, np.ndarray], x: np.ndarray, num_heads: int) -> np.ndarray:
    batch, length, width = x.shape
    heads = _linear(layer, "attn.qkv", x).reshape(batch, length, 3, num_heads, -1)
    query, key, value = heads.transpose(2, 0, 3, 1, 4)
    logits = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ value
    return _linear(layer, "attn.proj", mixed.transpose(0, 2, 1, 3).reshape(batch, length, width))
