"""Why `hvt_jax.nn.convolution` writes the weight gradient itself.

    python -m benchmarks.convolution

Prints the fastest of several runs, in turns, of the gradient of a temporal convolution over
[8, 5, 60·80, 64] with 5 taps, in milliseconds: derived by jax, and as one matrix product per row of the kernel.
"""

import time

import jax
import jax.numpy as jnp

from hvt_jax.nn import convolution


def _gradient(function):
    return jax.jit(jax.grad(lambda x, kernel: jnp.square(function(x, kernel)).sum(), argnums=(0, 1)))


def main() -> None:
    """Measure and print."""
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], (8, 5, 4800, 64)), jax.random.normal(keys[1], (5, 1, 64, 64))
    functions = {
        "derived by jax": _gradient(convolution.convolve.fun),
        "one product a row": _gradient(convolution.convolve),
    }
    seconds = {name: [] for name in functions}
    for _ in range(6):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            seconds[name].append(time.perf_counter() - start)
    fastest = {name: 1000 * min(values[1:]) for name, values in seconds.items()}
    for name, value in fastest.items():
        print(f"{name:20s} {value:8.1f} ms")
    print(f"ratio {fastest['derived by jax'] / fastest['one product a row']:.2f}")


if __name__ == "__main__":
    main()
