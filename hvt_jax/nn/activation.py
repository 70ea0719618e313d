"""The activation."""

import math

import jax
import jax.numpy as jnp

_SQRT_HALF = math.sqrt(0.5)
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Return the exact GELU, x times the normal distribution function of x.

    By erf, where `jax.nn.gelu(approximate=False)` takes erfc: that keeps relative precision of values
    that round to zero anyway, and costs a branch and two exponentials per element. The backward pass
    computes erf again instead of keeping it: one array less to write and to read.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * _SQRT_HALF))


def _gelu_forward(x):
    return gelu.fun(x), x


def _gelu_backward(x, gradient):
    slope = 0.5 * (1 - jax.lax.erf(x * -_SQRT_HALF)) + x * jnp.exp(-0.5 * x * x) * _DENSITY_AT_0
    return (gradient * slope,)


gelu.defvjp(_gelu_forward, _gelu_backward)
