"""Parity of the whole S3D with the original's and with torchvision's: every stage, logits and running statistics.

The weights come in as those of a file would (`interop.s3d`), so that its maps of names are held as well. In float64,
which takes longer, all agrees to the rounding of the files.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import state as state_lib
from hvt_jax.interop import s3d as importer
from hvt_jax.model.s3d import S3D, pool
from tests import golden_files
from tests.determined import det, summary
from tests.parity_case import close, load, quick_jit

# To renew torchvision's: tests/goldens/make_s3d_torchvision.py.
_GOLDENS = {"kylemin": golden_files.of_kind("s3d"), "torchvision": golden_files.of_kind("s3d_torchvision")}
_ORIGINAL_SHAPE = (2, 3, 16, 64, 64)  # of the original's video, as its README says
# Of the largest value. In training the last maps are normalised over 16 rows, which makes float32's rounding larger.
_TOLERANCE = {
    ("float32", "eval"): 1e-5,
    ("float32", "train"): 5e-4,
    ("float64", "eval"): 1e-7,
    ("float64", "train"): 1e-7,
}


def _cases() -> list:
    """Return (layout, file, dtype); one of them is for every day."""
    return [
        pytest.param(
            layout,
            path,
            dtype,
            id=f"{layout}-{golden_files.label(path)}-{dtype}",
            marks=() if (layout, dtype) == ("kylemin", "float32") else pytest.mark.long,
        )
        for layout, paths in _GOLDENS.items()
        for path in paths
        for dtype in ("float32", "float64")
    ]


@pytest.mark.parametrize(("layout", "path", "dtype"), _cases())
def test_every_stage(layout, path, dtype):
    with jax.enable_x64(dtype == "float64"):
        _compare(load(path), layout, jnp.dtype(dtype))


def _compare(arrays: dict[str, np.ndarray], layout: str, dtype: jnp.dtype) -> None:
    prefix = "torchvision_" if layout == "torchvision" else ""
    shapes = json.loads(str(arrays[f"{prefix}shapes_json"]))
    names = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    state = {name: det(name, tuple(shape)) for name, shape in names.items()}
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), importer.to_our_variables(state, layout, ""))
    shape = tuple(arrays["torchvision_shape"]) if layout == "torchvision" else _ORIGINAL_SHAPE
    video = np.random.RandomState(5).random_sample(shape).transpose(0, 2, 3, 4, 1).astype(dtype)
    graph = state_lib.graph_of(functools.partial(S3D, momentum=0.999, dtype=dtype))

    @quick_jit
    def run(params, stats, head):
        found = {}
        for mode in ("eval", "train"):
            network = state_lib.merge(graph, params, stats)
            stages = [stage for _, stage in network.stages(jnp.asarray(video), train=mode == "train", valid=None)]
            logits = pool(stages[-1]) @ head["kernel"] + head["bias"]
            found[mode] = stages, logits, state_lib.statistics(network)
        return found

    found = jax.device_get(run(*variables))
    for mode, (stages, logits, _) in found.items():
        assert len(stages) == 16 and f"{mode}/stage16" not in arrays
        for number, stage in enumerate(stages):
            ours, key = np.asarray(stage, np.float64).transpose(0, 4, 1, 2, 3), f"{mode}/stage{number}"
            assert list(ours.shape) == arrays[f"{key}_shape"].tolist()
            close(summary(ours), arrays[key], _TOLERANCE[dtype.name, mode], key)
        close(logits, arrays[f"{mode}/logits"], _TOLERANCE[dtype.name, mode], f"{mode}/logits")
    _check_statistics(found["train"][2], arrays, layout, _TOLERANCE[dtype.name, "train"])


def _check_statistics(moved: dict, arrays: dict, layout: str, tolerance: float) -> None:
    """Compare the running statistics after the step in training mode."""
    stored = {name: array for name, array in arrays.items() if "_after_train/" in name}
    assert len(stored) >= 2
    ours = importer.leaves.flatten(moved)
    by_name = {importer.their_name(place, layout): array for place, array in ours.items()}
    for key, expected in stored.items():
        part, module = key.split("_after_train/")
        close(by_name[f"{module}.{part}"], expected, tolerance, key)
