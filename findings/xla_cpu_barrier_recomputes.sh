#!/usr/bin/env bash
# jax/jaxlib 0.10.2, CPU: a value behind `jax.lax.optimization_barrier` that is cut into n parts is computed n times,
# as without the barrier: the barrier is taken out before operations are fused, and cheap ones are then repeated in
# every part. So it neither keeps a result from being recomputed nor makes such a program smaller to compile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp

PARTS = 8


def split(arrays, barrier):
    together = jnp.stack(arrays) * 3 + 1
    together = jax.lax.optimization_barrier(together) if barrier else together
    return [together[index] for index in range(PARTS)]


found = {}
for barrier in (False, True):
    lowered = jax.jit(lambda arrays, barrier=barrier: split(arrays, barrier)).lower([jnp.ones(1000)] * PARTS)
    assert ("optimization_barrier" in lowered.as_text()) == barrier
    found[barrier] = lowered.compile().as_text().count(" multiply(")
print(f"jax {jax.__version__}: one product of {PARTS} stacked arrays, cut apart again, is compiled {found[False]} times, "
      f"with a barrier before the cut {found[True]} times")
sys.exit(found != {False: PARTS, True: PARTS})
PY
