"""The small MLP of one edge, with the codes that tell it which token is asked for."""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.nn import normalization
from hvt_jax.nn.activation import gelu
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.positions import LearnedTable
from hvt_jax.settings.model_settings import PatchSettings


class Predictor(nnx.Module):
    """Token plus code -> hidden layers (linear, norm, GELU) -> linear without bias -> norm.

    With no hidden widths it is one linear map, as in the original by default. Two codes share the
    width: the first gets two thirds of it, and they are concatenated.
    """

    def __init__(
        self, settings: PatchSettings, width_out: int, codes: dict[str, int], *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        widths = (settings.width, *settings.predictor_hidden)
        self.num_hidden, self.dtype = len(settings.predictor_hidden), dtype
        self.hidden = nnx.Dict()
        for index, (width_in, width) in enumerate(zip(widths, widths[1:], strict=False)):
            self.hidden[f"linear_{index}"] = Linear(width_in, width, dtype=dtype, rngs=rngs)
            norm = normalization.make_norm(settings.predictor_hidden_norm, width, dtype)
            if norm is not None:
                self.hidden[f"norm_{index}"] = norm
        self.out = Linear(widths[-1], width_out, use_bias=False, dtype=dtype, rngs=rngs)
        self.output_norm = normalization.make_norm(settings.predictor_norm, width_out, dtype)
        self.code_names = tuple(codes)
        code_widths = code_split(settings.width, len(codes))
        self.codes = nnx.Dict(
            {
                name: LearnedTable(length, width, rngs=rngs)
                for (name, length), width in zip(codes.items(), code_widths, strict=True)
            }
        )

    def __call__(
        self,
        tokens: jax.Array,
        code_indices: dict[str, jax.Array],
        *,
        train: bool,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Predict from `tokens` [B, N, D] with int codes [B, N] each; returns [B, N, width_out]."""
        if self.code_names:
            parts = [self.codes[name].look_up(code_indices[name], tokens.dtype) for name in self.code_names]
            tokens = tokens + jnp.concatenate(parts, axis=-1)
        for index in range(self.num_hidden):
            tokens = self.hidden[f"linear_{index}"](tokens)
            norm = self.hidden[f"norm_{index}"] if f"norm_{index}" in self.hidden else None
            tokens = normalization.apply_norm(norm, tokens, train=train, valid=valid)
            tokens = gelu(tokens)
        return normalization.apply_norm(self.output_norm, self.out(tokens), train=train, valid=valid)


def code_split(width: int, num_codes: int) -> tuple[int, ...]:
    """Return how `num_codes` codes (0, 1 or 2) share `width`: two thirds, rounded down, and the rest."""
    if num_codes == 2:
        return (width * 2 // 3, width - width * 2 // 3)
    return (width,) * num_codes
