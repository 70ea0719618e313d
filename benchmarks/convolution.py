"""Why `hvt_jax.nn.convolution` writes the weight gradients itself.

    python -m benchmarks.convolution

Prints the fastest of several runs, in turns and in milliseconds, of the gradients of a spatial convolution
(3x3 over [8, 5, 60, 80, 64]) and of a temporal one (5 taps over [8, 60·80, 5, 64]): derived by jax, and as
they are written there.
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
    for function, shape, kernel in (
        (convolution.convolve, (8, 5, 60, 80, 64), (3, 3, 64, 64)),
        (convolution.convolve_time, (8, 4800, 5, 64), (5, 64, 64)),
    ):
        arrays = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel)
        functions = {"derived by jax": _gradient(function.fun), "written": _gradient(function)}
        seconds = {name: [] for name in functions}
        for _ in range(6):
            for name, gradient in functions.items():
                start = time.perf_counter()
                jax.block_until_ready(gradient(*arrays))
                seconds[name].append(time.perf_counter() - start)
        derived, written = (1000 * min(values[1:]) for values in seconds.values())
        times = f"derived {derived:7.1f} ms, written {written:7.1f} ms, ratio {derived / written:.2f}"
        print(f"{function.fun.__name__:15s} {times}")


if __name__ == "__main__":
    main()
