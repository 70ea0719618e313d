"""Multi-head self-attention."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from hvt_jax.nn import fused_attention
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.normalization import LayerNorm


class SelfAttention(nnx.Module):
    """Self-attention with one fused projection to queries, keys and values, with a bias there only if asked for.

    The scale is K**-0.5; the softmax is taken in at least float32.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_width: int,
        *,
        qkv_bias: bool = False,
        kernel: str = "xla",
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.num_heads, self.head_width, self.kernel = num_heads, head_width, kernel
        inner = num_heads * head_width
        self.qkv = Linear(width, 3 * inner, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.out = Linear(inner, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: jax.Array, norm: LayerNorm | None = None, *, causal: bool, num_outputs: int | None = None
    ) -> jax.Array:
        """Mix `norm(tokens)` [rows, length, D] over length; with `causal` no token sees a later one.

        With `num_outputs` only the first so many tokens ask, and [rows, num_outputs, D] is returned.
        """
        mixed = attend(*self._project(tokens, norm, num_outputs), causal=causal, kernel=self.kernel)
        return self.out(rearrange(mixed, "rows h n k -> rows n (h k)"))

    def weights(
        self, tokens: jax.Array, norm: LayerNorm | None = None, *, causal: bool, num_outputs: int | None = None
    ) -> jax.Array:
        """Return the weights [rows, H, n, length] by which a call mixes the values; each row sums up to 1."""
        query, key, _ = self._project(tokens, norm, num_outputs)
        return jax.nn.softmax(_logits(query, key, causal=causal), axis=-1)

    def _project(self, tokens: jax.Array, norm: LayerNorm | None, num_outputs: int | None) -> tuple[jax.Array, ...]:
        """Return queries [rows, H, n, K], keys and values [rows, H, length, K]."""
        if num_outputs is None:
            query, key, value = self._heads(self.qkv(tokens, norm))
        else:
            inner = self.num_heads * self.head_width
            (query,) = self._heads(self.qkv(tokens[:, :num_outputs], norm, slice(inner)))
            key, value = self._heads(self.qkv(tokens, norm, slice(inner, None)))
        return query, key, value

    def _heads(self, projected: jax.Array) -> jax.Array:
        """Part [rows, length, parts·H·K] into [parts, rows, H, length, K]."""
        sizes = {"h": self.num_heads, "k": self.head_width}
        return rearrange(projected, "rows n (parts h k) -> parts rows h n k", **sizes)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool, kernel: str = "xla") -> jax.Array:
    """Return softmax(query key^T / sqrt(K)) value for queries [rows, H, n, K], keys and values [rows, H, length, K].

    With `kernel` "cudnn" by cuDNN where that takes them (`fused_attention.refusal`), else, and with "xla", by XLA.

    Written out, for sequences of tens to hundreds of tokens: heads in front make every product a plain
    batched one, the weights are normalised after they met the values (fewer numbers to divide), and
    unlike `jax.nn.dot_product_attention` it keeps double precision where the parity tests ask for it.
    """
    sizes = {"length": key.shape[2], "num_queries": query.shape[2], "head_width": query.shape[3]}
    where = {"dtype": query.dtype, "backend": jax.default_backend()}
    if kernel == "cudnn" and not fused_attention.refusal(**sizes, **where):
        return fused_attention.attend_fused(query, key, value, causal=causal)
    logits_BHQK = _logits(query, key, causal=causal)
    # The largest logit only keeps exp finite; the result does not depend on it, nor does its gradient.
    weights_BHQK = jnp.exp(logits_BHQK - jax.lax.stop_gradient(logits_BHQK.max(-1, keepdims=True)))
    dtype = logits_BHQK.dtype
    mixed_BHQK = jnp.einsum("bhqs,bhsk->bhqk", weights_BHQK.astype(value.dtype), value, preferred_element_type=dtype)
    return (mixed_BHQK / weights_BHQK.sum(-1)[..., None]).astype(value.dtype)


def _logits(query: jax.Array, key: jax.Array, *, causal: bool) -> jax.Array:
    """Return query key^T / sqrt(K), [rows, H, n, length], in at least float32; -inf where a token is later."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits_BHQK = jnp.einsum("bhqk,bhsk->bhqs", query * query.shape[-1] ** -0.5, key, preferred_element_type=dtype)
    if causal:
        logits_BHQK = jnp.where(jnp.tri(*logits_BHQK.shape[-2:], dtype=bool), logits_BHQK, -jnp.inf)
    return logits_BHQK
