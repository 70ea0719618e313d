"""Parity of the conv stem with the original's; the whole S3D: test_parity_s3d.

Gradients in float32 have a wider bound (`parity.follows_from_a_flip`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hvt_jax.interop import original
from hvt_jax.model.stem import ConvStem
from tests import golden_files, parity
from tests.determined import det
from tests.parity_case import close, load, quick_jit

STORED = parity.STORED
TOLERANCE = {"float64": STORED, "float32": 1e-5}  # of the largest value


def _original(path: tuple, prefix: str) -> tuple[tuple[str, ...], str]:
    """Return our whole path, and the original's name, of what lies at `path` in a conv stem."""
    path = ("stem", "convolutions", *(entry.key for entry in path))
    return path, prefix + original.original_name(path, ()).removeprefix("backbone.net.")


def _filled(stem: ConvStem, prefix: str, dtype: str):
    """Return (graph, parameters, statistics) of `stem` with the values that det() gives the original's names."""

    def fill(path, leaf):
        path, name = _original(path[1:], prefix)
        shape = leaf.shape
        if path[-1] == "kernel":
            size, _, channels_in, channels = leaf.shape
            shape = (channels, channels_in, *((size, 1, 1) if path[-2] == "time" else (1, size, size)))
        return jnp.asarray(original.to_our_layout(path, det(name, shape)), dtype)

    graph, *parts = nnx.split(stem, nnx.Param, nnx.BatchStat)
    return graph, *jax.tree_util.tree_map_with_path(fill, [nnx.to_pure_dict(part) for part in parts])


@parity.BOTH
@golden_files.each("s3d_stem")
def test_conv_stem(path, dtype):
    arrays = load(path)
    with jax.enable_x64(dtype == "float64"):
        video = jnp.asarray(arrays["video_uint8_bcthw"].transpose(0, 2, 3, 4, 1) / 255.0, dtype)
        channels = arrays["train/out"].shape[1]
        stem = ConvStem(64, channels, momentum=0.999, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
        graph, params, stats = _filled(stem, "net.", dtype)
        weights = np.random.RandomState(7).standard_normal(arrays["train/out"].shape).transpose(0, 2, 3, 4, 1)

        def run(train):
            def objective(params, video):
                out = nnx.merge(graph, params, stats, copy=True)(video, train=train, valid=None)
                return (out * weights.astype(dtype)).sum(), out

            return quick_jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, video)

        bound = STORED if dtype == "float64" else parity.FLIPPED_GRADIENT
        compared = {"video_uint8_bcthw", "train/dx"}
        for mode, train in (("eval", False), ("train", True)):
            (_, out), (gradients, d_video) = run(train)
            close(out.transpose(0, 4, 1, 2, 3), arrays[f"{mode}/out"], TOLERANCE[dtype], f"{mode}/out")
            compared |= {f"{mode}/out"} | _check_stem_gradients(gradients, arrays, mode, bound)
        close(d_video[:1].transpose(0, 4, 1, 2, 3), arrays["train/dx"], bound, "dx")
    assert compared == arrays.keys()


def _check_stem_gradients(gradients, arrays, mode: str, bound: float) -> set[str]:
    compared = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        path, name = _original(path, "net.")
        key = f"{mode}/grad/{name}"
        if key in arrays:
            close(leaf, original.to_our_layout(path, arrays[key]), bound, key)
        else:
            key = f"{mode}/grad_l2/{name}"
            close(np.linalg.norm(np.asarray(leaf)), arrays[key], 1e-9 if bound == STORED else bound, key)
        compared.add(key)
    return compared
