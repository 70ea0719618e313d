"""Computing again what would be kept for the backward pass, once its gradient is there and not before."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def recomputed(function: Callable) -> Callable:
    """Return `function`, pure, keeping nothing but its arguments for its gradient.

    As `jax.checkpoint`, whose second forward pass needs arguments only, so that a compiler may do it long before the
    gradient of the results has come (XLA:CPU does). This one stands behind a choice which needs that gradient: where it
    is nothing, so is that of the arguments.
    """

    @jax.custom_vjp
    def run(*arguments):
        return function(*arguments)

    def forward(*arguments):
        return function(*arguments), arguments

    def backward(arguments, gradients):
        numbers, treedef = jax.tree.flatten(arguments)
        floats = [number for number, leaf in enumerate(numbers) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        def pull_back() -> list[jax.Array]:
            def of_floats(*values):
                whole = list(numbers)
                for number, value in zip(floats, values, strict=True):
                    whole[number] = value
                return function(*jax.tree.unflatten(treedef, whole))

            return list(jax.vjp(of_floats, *(numbers[number] for number in floats))[1](gradients))

        def nothing() -> list[jax.Array]:
            return [jnp.zeros_like(numbers[number]) for number in floats]

        found: list[Any] = [None] * len(numbers)
        is_there = jnp.stack([leaf.any() for leaf in jax.tree.leaves(gradients)]).any()
        for number, value in zip(floats, jax.lax.cond(is_there, pull_back, nothing), strict=True):
            found[number] = value
        return jax.tree.unflatten(treedef, found)

    run.defvjp(forward, backward)
    return run
