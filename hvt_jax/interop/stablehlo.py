"""The model as one StableHLO program that JAX alone runs: parameters and a video in, features of every level out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hvt_jax.engine import steps
from hvt_jax.run import leaves
from hvt_jax.run.trained import Trained

PLATFORMS = ("cpu", "cuda")


def serialise(trained: Trained) -> bytes:
    """Return `encode(variables, video) -> {level: float32 [B, D]}`, for any B, as `jax.export` writes it.

    `variables` are the arrays of model.safetensors by their names there; `video` is uint8 [B, T, Y, X, 3], of the
    sizes the model sees.
    """
    from jax import export

    # Attention as XLA compiles it, on any device.
    model = dataclasses.replace(trained.settings.model, attention="xla")
    definition = steps.define(dataclasses.replace(trained.settings, model=model), trained.definition.num_classes)
    data, encode = trained.settings.data, steps.build_encode(definition)

    def encode_flat(variables: Mapping[str, jax.Array], video: jax.Array) -> dict[str, jax.Array]:
        return encode(**({"params": {}, "stats": {}} | leaves.nest(variables)), video=video)

    flat = leaves.flatten({"params": trained.params, "stats": trained.stats})
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}
    (batch,) = export.symbolic_shape("batch")
    video = jax.ShapeDtypeStruct((batch, data.num_frames, data.height, data.width, 3), jnp.uint8)
    return bytes(export.export(jax.jit(encode_flat), platforms=PLATFORMS)(shapes, video).serialize())


def run(program: bytes, variables: Mapping[str, Any], video: Any) -> dict[str, jax.Array]:
    """Return what a program of `serialise` makes of a video."""
    from jax import export

    return export.deserialize(bytearray(program)).call(dict(variables), video)
