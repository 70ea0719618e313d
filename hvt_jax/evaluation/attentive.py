"""The attentive probe: a learned query looks at all tokens of a level.

Source: V-JEPA (Bardes et al., arXiv 2404.08471, section 3.2): one query, one block of cross-attention and MLP, a linear
head. The 20 settings are those of V-JEPA 2 (arXiv 2506.09985, its evaluation configs).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from hvt_jax.evaluation.grid_probes import Schedule, grid
from hvt_jax.evaluation.probe_networks import Params, Probe
from hvt_jax.nn.activation import gelu

SETTINGS = grid((5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8))
SCHEDULE = Schedule(batch=128, epochs=20, least=200, most=40_000)
_HEAD_WIDTH = 64  # of ViTs
_STD = 0.02  # of fresh weights
_EPSILON = 1e-6  # of LayerNorm
_highest = {"precision": "highest"}


@dataclasses.dataclass(frozen=True)
class Attentive(Probe):
    """A query that pools tokens [B, N, D], and a linear head.

        query += out(attention(query, norm(tokens)));  query += MLP(norm(query));  logits = head(query)

    Written so that nothing of size N x D belongs to one setting alone. The query is the same for all videos, so the
    logits of a head are the tokens times *one* vector (key map times query, scaled by the norm), and its answer is the
    value map of *one* mean of tokens: keys and values are never made. The numbers are those of the plain form; what
    remains for every setting is H numbers a token and layers on one query.

    Attributes:
      width: D.
      num_heads: H; divides D.
      num_classes: of the head.
    """

    width: int
    num_heads: int
    num_classes: int

    def initialise(self, key: jax.Array) -> Params:
        """Return fresh parameters, as V-JEPA draws them."""
        width, hidden = self.width, 4 * self.width
        shapes = {
            "query": (width,),
            "query_map": (width, width),
            "key_map": (width, width),
            "value_map": (width, width),
            "out_map": (width, width),
            "hidden_map": (width, hidden),
            "mlp_out_map": (hidden, width),
            "head_map": (width, self.num_classes),
        }
        keys = jax.random.split(key, len(shapes))
        params = {
            name: _STD * jax.random.truncated_normal(one, -2, 2, shape)
            for one, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        for name in ("out_map", "mlp_out_map"):
            params[name] = params[name] / math.sqrt(2)
        biases = ("query_bias", "value_bias", "out_bias", "norm_bias", "mlp_norm_bias", "mlp_out_bias")
        zeros = dict.fromkeys(biases, width) | {"hidden_bias": hidden, "head_bias": self.num_classes}
        params |= {name: jnp.zeros(size) for name, size in zeros.items()}
        return params | {"norm_scale": jnp.ones(width), "mlp_norm_scale": jnp.ones(width)}

    def prepare(self, examples: jax.Array) -> jax.Array:
        """Return tokens [B, N, D], each standardised over D in float32: the part of the norm that is not learned."""
        return _standardise(examples.astype(jnp.float32))

    def logits(self, params: Params, prepared: jax.Array) -> jax.Array:
        """Return [B, classes]."""
        heads, width = self.num_heads, self.width
        query_HK = (params["query"] @ params["query_map"] + params["query_bias"]).reshape(heads, -1)
        key_map_DHK = params["key_map"].reshape(width, heads, -1)
        # A bias of the keys, and that of the norm, add the same to the logits of all tokens: softmax drops them.
        ask_DH = jnp.einsum("dhk,hk->dh", key_map_DHK, query_HK, **_highest) * params["norm_scale"][:, None]
        logits_BNH = jnp.einsum("bnd,dh->bnh", prepared, ask_DH * (width // heads) ** -0.5, **_highest)
        weights_BNH = jax.nn.softmax(logits_BNH, axis=1)
        pooled_BHD = jnp.einsum("bnh,bnd->bhd", weights_BNH, prepared, **_highest)
        pooled_BHD = pooled_BHD * params["norm_scale"] + params["norm_bias"]
        value_map_DHK = params["value_map"].reshape(width, heads, -1)
        mixed_BHK = jnp.einsum("bhd,dhk->bhk", pooled_BHD, value_map_DHK, **_highest)
        mixed_BD = mixed_BHK.reshape(-1, width) + params["value_bias"]
        query_BD = params["query"] + jnp.matmul(mixed_BD, params["out_map"], **_highest) + params["out_bias"]
        normed_BD = _standardise(query_BD) * params["mlp_norm_scale"] + params["mlp_norm_bias"]
        hidden_BM = gelu(jnp.matmul(normed_BD, params["hidden_map"], **_highest) + params["hidden_bias"])
        query_BD = query_BD + jnp.matmul(hidden_BM, params["mlp_out_map"], **_highest) + params["mlp_out_bias"]
        return jnp.matmul(query_BD, params["head_map"], **_highest) + params["head_bias"]


def make_probe(width: int, num_classes: int) -> Attentive:
    """Return the probe of tokens of width D: heads as near to 64 wide as D allows, at least one."""
    wanted = max(1, round(width / _HEAD_WIDTH))
    heads = max(number for number in range(1, wanted + 1) if width % number == 0)
    return Attentive(width, heads, num_classes)


def _standardise(x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
