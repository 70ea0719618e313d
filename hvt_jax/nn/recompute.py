"""Computing again what would be kept for the backward pass, once its gradient is there and not before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def recomputed(function: Callable) -> Callable:
    """Return `function`, pure, keeping nothing but its arguments for its gradient.

    As `jax.checkpoint`, whose second forward pass needs arguments only, so that a compiler may merge it with the first
    or do it long before the gradient of the results has come, and saves nothing (XLA:CPU does,
    findings/xla_cpu_checkpoint_keeps.sh). This one stands behind a choice which needs that gradient: where it is
    nothing, so is that of the arguments.
    """

    @jax.custom_vjp
    def run(*arguments):
        return function(*arguments)

    def forward(*arguments):
        return function(*arguments), arguments

    def backward(arguments, gradients):
        leaves, treedef = jax.tree.flatten(arguments)
        floats = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        def of_floats(*values):
            given = dict(zip(floats, values, strict=True))
            return function(*jax.tree.unflatten(treedef, [given.get(place, leaf) for place, leaf in enumerate(leaves)]))

        def pull_back() -> tuple[jax.Array, ...]:
            return jax.vjp(of_floats, *(leaves[place] for place in floats))[1](gradients)

        def nothing() -> tuple[jax.Array, ...]:
            return tuple(jnp.zeros_like(leaves[place]) for place in floats)

        is_there = jnp.stack([leaf.any() for leaf in jax.tree.leaves(gradients)]).any()
        found = dict(zip(floats, jax.lax.cond(is_there, pull_back, nothing), strict=True))
        return jax.tree.unflatten(treedef, [found.get(place) for place in range(len(leaves))])  # None: has no gradient

    run.defvjp(forward, backward)
    return run
