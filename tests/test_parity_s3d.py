"""Parity of the whole S3D with the original's and with torchvision's: every stage, logits and running statistics.

The weights come in as files would (`interop.s3d`), so that its maps of names are held as well. In float32 only:
convolutions of this size in float64 would take as long as all else here.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.interop import s3d as importer
from hvt_jax.model.s3d import S3D, pool
from tests import golden_files
from tests.determined import det, summary
from tests.parity_case import close, load, quick_jit

# To renew torchvision's: tests/goldens/make_s3d_torchvision.py.
_GOLDENS = [("kylemin", path) for path in golden_files.of_kind("s3d")]
_GOLDENS += [("torchvision", path) for path in golden_files.of_kind("s3d_torchvision")]
_ORIGINAL_SHAPE = (2, 3, 16, 64, 64)  # of the original's video, as its README says
_TOLERANCE = {"eval": 1e-5, "train": 1e-4}  # of the largest value; statistics of few rows make rounding larger


@pytest.mark.parametrize(
    ("layout", "path"), _GOLDENS, ids=[f"{layout}-{golden_files.label(path)}" for layout, path in _GOLDENS]
)
def test_every_stage(layout, path):
    arrays = load(path)
    prefix = "torchvision_" if layout == "torchvision" else ""
    shapes = json.loads(str(arrays[f"{prefix}shapes_json"]))
    names = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    state = {name: det(name, tuple(shape)) for name, shape in names.items()}
    params, stats, head = importer.to_our_variables(state, layout, "")
    shape = tuple(arrays["torchvision_shape"]) if layout == "torchvision" else _ORIGINAL_SHAPE
    video = np.random.RandomState(5).random_sample(shape).transpose(0, 2, 3, 4, 1).astype(np.float32)
    graph = nnx.split(nnx.eval_shape(functools.partial(_network, nnx.Rngs(0))))[0]

    @functools.partial(quick_jit)
    def run(params, stats, head):
        found = {}
        for mode in ("eval", "train"):
            network = nnx.merge(graph, params, stats, copy=True)
            stages = [stage for _, stage in network.stages(jnp.asarray(video), train=mode == "train", valid=None)]
            logits = pool(stages[-1]) @ head["kernel"] + head["bias"]
            found[mode] = stages, logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return found

    for mode, (stages, logits, moved) in jax.device_get(run(params, stats, head)).items():
        assert len(stages) == 16 and f"{mode}/stage16" not in arrays
        for number, stage in enumerate(stages):
            ours, key = np.asarray(stage, np.float64).transpose(0, 4, 1, 2, 3), f"{mode}/stage{number}"
            assert list(ours.shape) == arrays[f"{key}_shape"].tolist()
            close(summary(ours), arrays[key], _TOLERANCE[mode], key)
        close(logits, arrays[f"{mode}/logits"], _TOLERANCE[mode], f"{mode}/logits")
    _check_statistics(moved, arrays, layout)


def _network(rngs: nnx.Rngs) -> S3D:
    return S3D(momentum=0.999, dtype=jnp.dtype("float32"), rngs=rngs)


def _check_statistics(moved: dict, arrays: dict, layout: str) -> None:
    """After the step in training mode, the last one."""
    stored = {name: array for name, array in arrays.items() if "_after_train/" in name}
    assert len(stored) >= 2
    ours = importer.leaves.flatten(moved)
    by_name = {importer.their_name(place, layout): array for place, array in ours.items()}
    for key, expected in stored.items():
        part, module = key.split("_after_train/")
        close(by_name[f"{module}.{part}"], expected, _TOLERANCE["train"], key)
