"""The hierarchy that sees some patches of a video, and a narrow transformer that fills in the others."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from hvt_jax.model.level import LevelOutput
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.positions import LearnedTable
from hvt_jax.nn.transformer import Transformer


def encode_visible(
    pyramid: Pyramid,
    video: jax.Array,
    places: jax.Array,
    *,
    valid: jax.Array | None,
    key: jax.Array | None,
) -> dict[str, LevelOutput]:
    """Encode what is seen of a video in training, the same places in all frames; no gradient is stopped.

    Args:
      pyramid: with a stem of which every token sees its own patch only.
      video: float [B, T, Y, X, 3], normalised.
      places: int [B, K], which patches of a frame are seen.
      valid: bool [B]; examples that are False do not count in the statistics.
      key: for dropout; None switches it off.
    """
    tokens, raw = pyramid.stem(video, train=True, valid=valid)
    seen = take_places(rearrange(tokens, "b (t p) d -> b t p d", t=video.shape[1]), places)
    level = pyramid.levels["frame"]
    table, first = level.positions(jnp.float32), 0 if level.causal else 1
    positions = jnp.take(table[first:], places, axis=0)  # [B, K, D]
    if first:
        positions = jnp.concatenate([jnp.broadcast_to(table[:1], (len(video), 1, table.shape[1])), positions], axis=1)
    outputs = {"patch": LevelOutput(tokens, raw, None)} if "patch" in pyramid.hierarchy.levels else {}
    options = {"train": True, "valid": valid, "key": key, "isolated": False, "last_state": -1}
    return outputs | pyramid.encode(rearrange(seen, "b t p d -> b (t p) d"), positions={"frame": positions}, **options)


def take_places(tokens: jax.Array, places: jax.Array) -> jax.Array:
    """Return [B, T, K, D], the tokens [B, T, P, D] at int `places` [B, K] of every frame."""
    return jnp.take_along_axis(tokens, places[:, None, :, None], axis=2)


@dataclasses.dataclass(frozen=True)
class PredictorSizes:
    """Sizes of a `MaskedPredictor`: its transformer, times and places of the patches, tokens of the top level."""

    width: int
    depth: int
    heads: int
    times: int
    places: int
    context: int


class MaskedPredictor(nnx.Module):
    """From the tokens of the top level to what stands at places that were not seen, at all times.

    Queries made of a learned vector, a time and a place, and the tokens, pass a transformer together.
    """

    def __init__(self, width_in: int, width_out: int, *, sizes: PredictorSizes, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = sizes.width
        self.dtype = dtype
        self.input_projection = Linear(width_in, width, dtype=dtype, rngs=rngs)
        self.mask_token = LearnedTable(1, width, rngs=rngs)
        self.times = LearnedTable(sizes.times, width, rngs=rngs)
        self.places = LearnedTable(sizes.places, width, rngs=rngs)
        self.context = LearnedTable(sizes.context, width, rngs=rngs)
        self.transformer = Transformer(
            width,
            depth=sizes.depth,
            causal=False,
            dropout=0.0,
            remat=False,
            scan=sizes.depth > 2,
            dtype=dtype,
            rngs=rngs,
            num_heads=sizes.heads,
            head_width=width // sizes.heads,
            mlp_width=4 * width,
        )
        self.out = Linear(width, width_out, dtype=dtype, rngs=rngs)

    def __call__(self, context: jax.Array, places: jax.Array) -> jax.Array:
        """Return predictions [B, T, K, width_out] for int `places` [B, K], from tokens [B, N, D] of the top level."""
        context = self.input_projection(context.astype(self.dtype)) + self.context(self.dtype)
        asked_BKD = self.places.look_up(places, self.dtype) + self.mask_token(self.dtype)
        queries_BTKD = asked_BKD[:, None] + self.times(self.dtype)[None, :, None]
        times, count = queries_BTKD.shape[1:3]
        queries = rearrange(queries_BTKD, "b t k d -> b (t k) d")
        filled = self.transformer(jnp.concatenate([queries, context], axis=1), None, num_outputs=times * count)
        return rearrange(self.out(filled), "b (t k) d -> b t k d", t=times)
