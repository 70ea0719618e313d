"""A pre-norm transformer over sequences of tokens."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn.activation import gelu
from hvt_jax.nn.attention import SelfAttention
from hvt_jax.nn.keys import Keys, outline
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.normalization import LayerNorm


class TransformerLayer(nnx.Module):
    """Pre-norm attention and MLP (exact GELU), each with a residual."""

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        head_width: int,
        mlp_width: int,
        dropout: float,
        qkv_bias: bool = False,
        norm_epsilon: float = 1e-5,
        attention_kernel: str = "xla",
        dtype,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = LayerNorm(width, epsilon=norm_epsilon, dtype=dtype)
        options = {"qkv_bias": qkv_bias, "kernel": attention_kernel, "dtype": dtype, "rngs": rngs}
        self.attention = SelfAttention(width, num_heads, head_width, **options)
        self.mlp_norm = LayerNorm(width, epsilon=norm_epsilon, dtype=dtype)
        self.mlp_hidden = Linear(width, mlp_width, dtype=dtype, rngs=rngs)
        self.mlp_out = Linear(mlp_width, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, tokens: jax.Array, key: jax.Array | None, *, causal: bool, num_outputs: int | None = None
    ) -> jax.Array:
        """Return new tokens for all of `tokens` [rows, length, D] or the first `num_outputs`; no key, no dropout."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        drop = lambda x, k: x if k is None else self.dropout(x, deterministic=False, rngs=k)  # noqa: E731
        mixed = self.attention(tokens, self.attention_norm, causal=causal, num_outputs=num_outputs)
        tokens = tokens[:, :num_outputs] + drop(mixed, keys[0])
        hidden = drop(gelu(self.mlp_hidden(tokens, self.mlp_norm)), keys[1])
        return tokens + drop(self.mlp_out(hidden), keys[2])


class Transformer(nnx.Module):
    """`depth` layers and a final norm.

    Layers are stored one by one, so the checkpoint does not depend on `scan` or `remat`. With `scan`
    their parameters are stacked while tracing and one compiled layer serves all: compile time then
    does not grow with depth. With `remat` a layer's activations are recomputed in the backward pass.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        causal: bool,
        dropout: float,
        remat: bool,
        scan: bool,
        norm_epsilon: float = 1e-5,
        dtype,
        rngs,
        **sizes,
    ):
        self.depth, self.causal, self.dropout, self.remat, self.scan = depth, causal, dropout, remat, scan
        options = {"dropout": dropout, "norm_epsilon": norm_epsilon, "dtype": dtype, **sizes}
        self.layers = nnx.Dict(_fresh_layers(functools.partial(TransformerLayer, width, **options), depth, rngs))
        self.norm = LayerNorm(width, epsilon=norm_epsilon, dtype=dtype)

    def __call__(self, tokens: jax.Array, key: jax.Array | None, *, num_outputs: int | None = None) -> jax.Array:
        """Return new tokens for all of `tokens` [rows, length, D] or the first `num_outputs`; no key, no dropout.

        What is not asked for is not computed in the last layer: its queries, its attention and its MLP,
        which is most of a layer where one class token stands for a sequence. The numbers are the same.
        """
        keys = None if key is None or self.dropout == 0.0 else jax.random.split(key, self.depth)
        parts = [nnx.split(self.layers[layer_name(index)]) for index in range(self.depth)]
        graphdef, states = (parts[0][0] if parts else None), [state for _, state in parts]

        def apply(tokens, state, key, **options):
            layer = functools.partial(_apply_layer, graphdef, causal=self.causal, **options)
            return (jax.checkpoint(layer) if self.remat else layer)(tokens, state, key)

        # A last layer that does less cannot share the compiled one of the others.
        alike = self.depth if num_outputs is None else self.depth - 1
        if self.scan and alike > 1:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states[:alike])
            scanned = (stacked, None if keys is None else keys[:alike])
            tokens, _ = jax.lax.scan(lambda carry, xs: (apply(carry, *xs), None), tokens, scanned)
            done = alike
        else:
            done = 0
        for index in range(done, self.depth):
            options = {} if index < alike else {"num_outputs": num_outputs}
            tokens = apply(tokens, states[index], None if keys is None else keys[index], **options)
        return self.norm(tokens[:, :num_outputs])

    def attention(self, tokens: jax.Array, *, num_outputs: int | None = None) -> jax.Array:
        """Return the weights of the last layer, [rows, H, n, length]: what a call without a key mixes by."""
        *before, last = (self.layers[layer_name(index)] for index in range(self.depth))
        for layer in before:
            tokens = layer(tokens, None, causal=self.causal)
        return last.attention.weights(tokens, last.attention_norm, causal=self.causal, num_outputs=num_outputs)


def layer_name(index: int) -> str:
    """Return the name of layer `index`; two digits keep the sorted order of dicts that of the layers."""
    return f"layer_{index:02d}"


def _fresh_layers(build: functools.partial, depth: int, rngs: nnx.Rngs | Keys) -> dict[str, TransformerLayer]:
    """Return the layers that `depth` calls of `build(rngs=rngs)` would give, drawn by one program for all of them."""
    if depth == 0:
        return {}
    graphdef, shapes, count = outline(build)
    keys = [rngs.params() for _ in range(depth * count)]
    if isinstance(rngs, Keys) and rngs.only_counts:
        states = jax.tree.map(lambda shape: jnp.zeros((depth, *shape.shape), shape.dtype), shapes)
    else:
        states = jax.lax.map(lambda own: nnx.split(build(rngs=Keys(own)))[1], jnp.stack(keys).reshape(depth, count))
    return {
        layer_name(index): nnx.merge(graphdef, jax.tree.map(lambda x, i=index: x[i], states)) for index in range(depth)
    }


def _apply_layer(graphdef, tokens, state, key, **options):
    return nnx.merge(graphdef, state)(tokens, key, **options)
