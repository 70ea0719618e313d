#!/usr/bin/env bash
# jax/jaxlib 0.10.2, CPU: with products handed to YNNPACK, x @ ones is wrong; a product with a constant that is no
# single repeated number is right, and so are all without the option.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

x = np.random.default_rng(0).normal(size=(2048, 64)).astype(np.float32)
varied = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7
option = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def error(constant, options):
    product = jax.jit(lambda x: x @ jnp.asarray(constant()), compiler_options=options)(x)
    return float(np.abs(np.asarray(product) - x @ np.asarray(constant())).max())


ones = lambda: jnp.ones((64, 64))
found = [error(ones, option), error(lambda: varied, option), error(ones, {})]
print(f"jax {jax.__version__}: largest error of x @ ones with the option {found[0]:.3g}, "
      f"of x @ varied {found[1]:.2g}, of x @ ones without {found[2]:.2g}")
sys.exit(not (not found[0] < 1 and found[1] < 1e-2 and found[2] < 1e-3))
PY
