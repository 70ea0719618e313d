"""A teacher: a moving average of the trained parameters, which no gradient reaches."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Tree = dict[str, Any]


def first_teacher(params: Mapping[str, Any], without: tuple[str, ...] = ()) -> Tree:
    """Return the teacher of the first step: the parameters themselves, without the parts that it does not need."""
    return {name: jax.tree.map(jnp.copy, part) for name, part in params.items() if name not in without}


def follow(teacher: Tree, params: Mapping[str, Any], momentum: jax.Array | float) -> Tree:
    """Return `momentum` of the teacher and the rest of `params`, in the dtype of the teacher."""

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        return (momentum * old + (1 - momentum) * new).astype(old.dtype)

    return {name: jax.tree.map(move, part, params[name]) for name, part in teacher.items()}


def cosine_to_one(start: float, progress: jax.Array | float) -> jax.Array:
    """Return a momentum that rises from `start` to 1 while `progress` goes from 0 to 1 (BYOL, DINO, SVT)."""
    return 1 - (1 - start) * (1 + jnp.cos(math.pi * jnp.asarray(progress))) / 2


def linear_to_one(start: float, progress: jax.Array | float) -> jax.Array:
    """Return a momentum that rises from `start` to 1 while `progress` goes from 0 to 1 (I-JEPA, V-JEPA)."""
    return start + (1 - start) * jnp.asarray(progress)
