"""Four simulated devices for every test; must run before anything touches a device."""

import os

import jax
import pytest

# Nearly all time of these tests is compilation of tiny programs that run once. Without LLVM's optimisations and the
# emitter of fused kernels it takes a fifth of the time. Inherited by the commands that tests start. An XLA that does
# not know a flag aborts, so the second one is for the versions it was tried with only.
_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_platforms", "cpu")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
