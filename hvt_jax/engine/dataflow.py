"""Which inputs of a traced function its outputs can depend on: read off the program, so true for every value."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

Names = frozenset[str]


def reached_outputs(function: Callable, named: dict[str, Any], *rest: Any) -> Any:
    """Return, for every array that `function(named, *rest)` returns, the names of `named` that lead to it.

    The function is traced, never compiled or run. A name that is missing at an output is proved to have no
    influence on it, whatever the values; one that is present may still have none (a product with zero).

    Args:
      function: pure.
      named: arrays, or their shapes and dtypes, by name.
      rest: further arguments, arrays or their shapes; where they lead to is not looked at.

    Returns:
      a pytree like the function's result, of frozensets of names.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(named, *rest)
    sources = [frozenset({name}) for name in sorted(named) for _ in jax.tree.leaves(named[name])]
    sources += [frozenset()] * (len(closed.jaxpr.invars) - len(sources))
    return jax.tree.unflatten(jax.tree.structure(shape), _outputs(closed.jaxpr, sources))


def _outputs(jaxpr: core.Jaxpr, inputs: Sequence[Names]) -> list[Names]:
    found: dict[core.Var, Names] = dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda x: frozenset() if isinstance(x, core.Literal) else found.get(x, frozenset())  # noqa: E731
    for equation in jaxpr.eqns:
        results = _through(equation, [read(x) for x in equation.invars])
        found |= dict(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _through(equation: core.JaxprEqn, inputs: list[Names]) -> list[Names]:
    """Return what reaches the outputs of one operation; of an unknown one every input reaches every output."""
    inner = _inner_jaxpr(equation)
    if inner is None or len(inner.invars) != len(inputs) or len(inner.outvars) != len(equation.outvars):
        return [frozenset().union(*inputs)] * len(equation.outvars)
    if equation.primitive.name != "scan":
        return _outputs(inner, inputs)
    first, count = equation.params["num_consts"], equation.params["num_carry"]
    while True:  # until the carry holds all that comes around
        results = _outputs(inner, inputs)
        carry = [old | new for old, new in zip(inputs[first : first + count], results, strict=False)]
        if carry == inputs[first : first + count]:
            return results
        inputs = [*inputs[:first], *carry, *inputs[first + count :]]


def _inner_jaxpr(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Return the one program that an operation as `jit`, `scan`, `checkpoint` or `custom_vjp_call` runs once."""
    if equation.primitive.name in ("cond", "while"):
        return None
    found = [value for name, value in equation.params.items() if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]
    if len(found) != 1:
        return None
    return found[0].jaxpr if isinstance(found[0], core.ClosedJaxpr) else found[0]
