"""cuDNN's attention: one program of NVIDIA's that keeps no weights, for the shapes that it takes."""

import jax
import jax.numpy as jnp
from einops import rearrange

_MULTIPLE = 8  # of the length; others are padded
_WIDEST_HEAD = 128  # of all cards that have it


def refusal(*, length: int, num_queries: int, head_width: int, dtype: jnp.dtype, backend: str) -> str:
    """Return why cuDNN is not asked, "" if it is.

    Args:
      length: of the sequences that are attended to, tokens.
      num_queries: tokens that ask.
      head_width: of a query, key or value of one head.
      dtype: of the arithmetic.
      backend: `jax.default_backend()`.
    """
    if backend != "gpu":
        return f"the device is a {backend}"
    if jnp.dtype(dtype) not in (jnp.dtype("bfloat16"), jnp.dtype("float16")):
        return f"model.compute_dtype is {jnp.dtype(dtype)}"
    if head_width % 8 or head_width > _WIDEST_HEAD:
        return f"heads are {head_width} wide"
    # One class token that asks: a product with a vector, which nothing is gained by fusing.
    return "" if num_queries == length else "few tokens ask"


def padded(length: int) -> int:
    """Return the length of the sequences that cuDNN is given."""
    return -(-length // _MULTIPLE) * _MULTIPLE


def attend_fused(
    query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool, implementation: str = "cudnn"
) -> jax.Array:
    """Return what `attention.attend` does of queries, keys and values [rows, H, length, K], up to rounding.

    Args:
      query: of all tokens.
      key: of the same tokens.
      value: of the same tokens.
      causal: whether no token sees a later one.
      implementation: of `jax.nn.dot_product_attention`; "xla" computes the same anywhere.
    """
    rows, _, length, _ = query.shape
    fill = padded(length) - length
    lengths = {}
    if fill:
        query, key, value = (jnp.pad(x, ((0, 0), (0, 0), (0, fill), (0, 0))) for x in (query, key, value))
        counts = jnp.full((rows,), length, jnp.int32)
        lengths = {"query_seq_lengths": counts, "key_value_seq_lengths": counts}
    parts = (rearrange(x, "rows h n k -> rows n h k") for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(*parts, is_causal=causal, implementation=implementation, **lengths)
    return rearrange(mixed[:, :length], "rows n h k -> rows h n k")
