"""Four simulated devices for every test, and one compilation cache for the session and all commands that it starts.

Must run before anything touches a device.
"""

import dataclasses
import gc
import os
import pathlib

from hvt_jax import processor

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / f"jax-{processor.kind()}"
# Inherited by the commands that tests start. Reading a stored program takes less than compiling the smallest ones.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402

# Nearly all time of these tests is compilation of tiny programs that run once. Without LLVM's optimisations and the
# emitter of fused kernels it takes a fifth of the time. Inherited as above. An XLA that does not know a flag aborts, so
# the others are for the versions they were tried with only.
_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_platforms", "cpu")

# Tracing makes objects by the million that nobody needs a collector for: looking for cycles took a sixth of the time.
gc.set_threshold(100_000, 50, 100)

# Files that take longest, first: a worker that met one of them last would keep the others waiting.
LONGEST_FIRST = (
    "test_train.py",
    "test_multiprocess.py",
    "test_steps.py",
    "test_parity.py",
    "test_sharding.py",
    "test_bad_videos.py",
    "test_parity_others.py",
)


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # thousands of tests, which stay


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """48 videos of 64x64 pixels: 32 for training, 16 for testing."""
    from hvt_jax.tools import digits_files

    root = tmp_path_factory.mktemp("data") / "digits"
    digits_files.make_digits(root, digits_files.DigitsSpec(num_videos=48, size=64, codec="mpeg4", seed=0))
    return root


@pytest.fixture
def data_settings(digits_root):
    """Settings to read it: 4 frames of stride 2, without worker processes."""
    from configs import default
    from hvt_jax import settings as settings_lib

    data = settings_lib.read_settings(default.get_config()).data
    return dataclasses.replace(
        data, root=str(digits_root), num_frames=4, frame_stride=2, height=32, width=32, num_workers=0
    )
