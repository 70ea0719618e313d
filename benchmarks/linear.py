"""Why `hvt_jax.nn.linear` flattens: gradient of a linear map over [B, N, D] against one over rows.

    python -m benchmarks.linear

Prints the fastest of several runs of each, in turns, in milliseconds, and their ratio.
"""

import time

import jax
import jax.numpy as jnp

BATCH, LENGTH, WIDTH = 320, 49, 128


def _over_axes(x, w):
    return x @ w


def _over_rows(x, w):
    return (x.reshape(-1, WIDTH) @ w).reshape(BATCH, LENGTH, -1)


def _gradient(function):
    return jax.jit(jax.grad(lambda x, w: jnp.square(function(x, w)).sum(), argnums=(0, 1)))


def main() -> None:
    """Measure and print."""
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], (BATCH, LENGTH, WIDTH)), jax.random.normal(keys[1], (WIDTH, 3 * WIDTH))
    functions = {"over leading axes": _gradient(_over_axes), "over rows": _gradient(_over_rows)}
    seconds = {name: [] for name in functions}
    for _ in range(20):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            seconds[name].append(time.perf_counter() - start)
    fastest = {name: 1000 * min(values) for name, values in seconds.items()}
    for name, value in fastest.items():
        print(f"{name:20s} {value:8.1f} ms")
    print(f"ratio {fastest['over leading axes'] / fastest['over rows']:.2f}")


if __name__ == "__main__":
    main()
