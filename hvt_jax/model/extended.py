"""The hierarchy with what a method puts on top of it: projectors, heads, decoders."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.predictor import Predictor
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.settings.model_settings import ModelSettings, PatchSettings

_EPSILON = 1e-12  # of squared norms

Part = Callable[[nnx.Rngs], nnx.Module]


class Extended(Pyramid):
    """A pyramid without predictors, and further parts, whose parameters lie under their names: `projector/...`."""

    def __init__(self, settings: ModelSettings, hierarchy: Hierarchy, parts: Mapping[str, Part], *, rngs: nnx.Rngs):
        super().__init__(settings, hierarchy, rngs=rngs)
        for name, make in parts.items():
            setattr(self, name, make(rngs))


def aside(model: Pyramid) -> Pyramid:
    """Return the same model whose running statistics move apart: for videos unlike those that it is evaluated on.

    Gradients reach the parameters of `model` through it.
    """
    return nnx.merge(*nnx.split(model), copy=True)


def make_mlp(
    width_in: int, hidden: tuple[int, ...], width_out: int, *, norm: str, dtype: jnp.dtype, rngs: nnx.Rngs
) -> Predictor:
    """Return an MLP [B, N, width_in] -> [B, N, width_out]: linear, norm and GELU for each hidden width, then linear."""
    settings = PatchSettings(width_in, "none", hidden, norm, "none")
    return Predictor(settings, width_out, {}, dtype=dtype, rngs=rngs)


class PrototypeHead(nnx.Module):
    """An MLP to a bottleneck of length 1, and its cosines with `prototypes` learned directions (Caron et al. 2021)."""

    def __init__(
        self, width_in: int, hidden: int, bottleneck: int, prototypes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.mlp = make_mlp(width_in, (hidden, hidden), bottleneck, norm="none", dtype=dtype, rngs=rngs)
        self.prototypes = nnx.Param(jax.random.normal(rngs.params(), (bottleneck, prototypes)))

    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Return cosines, float32 or wider, [B, N, prototypes], of tokens [B, N, D]."""
        given = self.mlp(tokens, {}, train=train)
        given = given.astype(jnp.promote_types(given.dtype, jnp.float32))
        return _unit(given, -1) @ _unit(self.prototypes[...].astype(given.dtype), 0)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), _EPSILON))
