"""Multi-head self-attention."""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn.linear import Linear


class SelfAttention(nnx.Module):
    """Self-attention with one fused projection to queries, keys and values, without bias there.

    The scale is K**-0.5; the softmax is taken in at least float32.
    """

    def __init__(self, width: int, num_heads: int, head_width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads, self.head_width = num_heads, head_width
        inner = num_heads * head_width
        self.qkv = Linear(width, 3 * inner, use_bias=False, dtype=dtype, rngs=rngs)
        self.out = Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, *, causal: bool) -> jax.Array:
        """Mix `tokens` [rows, length, D] over length; with `causal` no token sees a later one."""
        qkv = self.qkv(tokens).reshape(*tokens.shape[:-1], 3, self.num_heads, self.head_width)
        mixed = attend(qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :], causal=causal)
        return self.out(mixed.reshape(*tokens.shape[:-1], -1))


def attend(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool) -> jax.Array:
    """Return softmax(query key^T / sqrt(K)) value for arrays [rows, length, H, K].

    Written out, for sequences of tens to hundreds of tokens: XLA fuses the softmax, and unlike
    `jax.nn.dot_product_attention` it keeps double precision where the parity tests ask for it.
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits_BHQK = jnp.einsum("bqhk,bshk->bhqs", query * query.shape[-1] ** -0.5, key, preferred_element_type=dtype)
    if causal:
        length = logits_BHQK.shape[-1]
        logits_BHQK = jnp.where(jnp.tri(length, dtype=bool), logits_BHQK, -jnp.inf)
    weights_BHQK = jax.nn.softmax(logits_BHQK).astype(value.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights_BHQK, value)
