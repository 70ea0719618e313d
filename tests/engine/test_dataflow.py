"""What can reach what in a traced function, operation by operation."""

import jax
import jax.numpy as jnp
import pytest

from hvt_jax.engine.dataflow import reached_outputs

X = jax.ShapeDtypeStruct((3,), jnp.float32)


@jax.custom_vjp
def _first_alone(x, y):
    return x + y


_first_alone.defvjp(lambda x, y: (x + y, x), lambda x, g: (g * x, jnp.zeros_like(g)))


def _carried(named):
    """`a` reaches the second carry in the second turn only."""

    def turn(carry, z):
        one, two = carry
        return (named["a"], one + z), z

    return jax.lax.scan(turn, (jnp.zeros(3), jnp.zeros(3)), jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda n: (n["a"] + 1, n["a"] * n["b"], jnp.ones(3)), ["a", "ab", ""]),
        (lambda n: jax.jit(lambda a, b: (a, b))(n["a"], n["b"]), ["a", "b"]),
        (_carried, ["a", "a", ""]),
        (lambda n: jax.grad(lambda a, b: (a * jax.lax.stop_gradient(b)).sum(), (0, 1))(n["a"], n["b"]), ["b", ""]),
        (lambda n: jax.grad(lambda x: (_first_alone(x, x) * n["b"]).sum())(n["a"]), ["ab"]),
        (lambda n: jax.grad(jax.checkpoint(lambda x: (x * x * n["b"]).sum()))(n["a"]), ["ab"]),
        (lambda n: 0.0 * n["a"], ["a"]),  # a path, whatever it carries
        (lambda n: jax.lax.cond(n["a"][0] > 0, lambda: n["b"], lambda: jnp.ones(3)), ["ab"]),
    ],
    ids=["operations", "jit", "scan", "stop_gradient", "custom_vjp", "checkpoint", "zero", "cond"],
)
def test_what_reaches_the_outputs(function, expected):
    found = reached_outputs(function, {"a": X, "b": X})
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    assert ["".join(sorted(names)) for names in leaves] == expected


def test_other_arguments_have_no_name():
    assert reached_outputs(lambda n, x: n["a"] + x, {"a": X}, X) == {"a"}
