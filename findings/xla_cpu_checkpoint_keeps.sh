#!/usr/bin/env bash
# jax/jaxlib 0.10.2, CPU: `jax.checkpoint` around a function that is no body of a loop saves no memory. The program that
# goes in has the function's product twice, apart by an optimization barrier; the compiled one has it once, because the
# barrier is taken out and equal operations are merged after that, so that what was to be computed again is kept: as many
# bytes of temporaries as without it. The same second product behind `jax.lax.cond` on the gradient takes two arrays
# fewer. (In a loop it works: the two passes are bodies of two loops, which nothing merges.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import re
import sys

import jax
import jax.numpy as jnp

ROWS, INPUTS, WIDTH, PARTS = 65536, 64, 256, 8


def embed(x, kernel):
    y = x @ kernel
    y = y - y.mean(0)
    return y / jnp.sqrt(jnp.square(y).mean(0) + 1e-5)


def behind_a_choice(function):
    @jax.custom_vjp
    def run(*arguments):
        return function(*arguments)

    def backward(arguments, gradient):
        def pull():
            return jax.vjp(function, *arguments)[1](gradient)

        return jax.lax.cond(gradient.any(), pull, lambda: jax.tree.map(jnp.zeros_like, arguments))

    run.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return run


def measure(wrap):
    def loss(kernels, x):
        def layers(part):
            for _ in range(6):
                part = jnp.tanh(part @ kernels[1])
            return part

        parts = wrap(embed)(x, kernels[0]).reshape(PARTS, -1, WIDTH)
        return jnp.square(jax.lax.map(jax.checkpoint(layers), parts)).sum()

    kernels = [jax.ShapeDtypeStruct((rows, WIDTH), "float32") for rows in (INPUTS, WIDTH)]
    lowered = jax.jit(jax.grad(loss)).lower(kernels, jax.ShapeDtypeStruct((ROWS, INPUTS), "float32"))
    compiled = lowered.compile()
    products = len(re.findall(rf"= f32\[{ROWS},{WIDTH}\]\S* dot\(", compiled.as_text()))
    barriers = lowered.as_text().count("optimization_barrier")
    return round(compiled.memory_analysis().temp_size_in_bytes / 2**20), products, barriers


ways = {"kept": lambda function: function, "jax.checkpoint": jax.checkpoint, "behind a choice": behind_a_choice}
found = {name: measure(wrap) for name, wrap in ways.items()}
print(f"jax {jax.__version__}, an array is {ROWS * WIDTH * 4 // 2**20} MiB")
for name, (mebibytes, products, barriers) in found.items():
    print(f"{name}: {mebibytes} MiB of temporaries, {products} product(s) when compiled, {barriers} barrier(s) before")
kept, again, chosen = found.values()
as_seen = kept[0] == again[0] and kept[1] == again[1] == 1 and again[2] > kept[2] and chosen[0] < kept[0] - 100
sys.exit(0 if as_seen else 1)
PY
