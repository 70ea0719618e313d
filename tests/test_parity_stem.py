"""Parity of the conv stem with the original's, and with the first stages of its whole S3D.

Not compared, and why: in s3d.npz the stages after the second pooling and the logits, which belong to no stem and have
no counterpart here. Gradients in float32 have a wider bound (`parity.follows_from_a_flip`).
"""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hvt_jax.interop import original
from hvt_jax.model.stem import RGB, ConvStem
from hvt_jax.nn.convolution import ConvNormRelu, SeparableConv, convolve, convolve_time, halve_space
from tests import golden_files, parity
from tests.parity_case import close, load, quick_jit

STORED = parity.STORED
TOLERANCE = {"float64": STORED, "float32": 1e-5}  # of the largest value


def det(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array that the goldens' README fills the tensor `name` with."""
    drawn = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    if name.endswith("running_var"):
        drawn = 1 + 0.1 * np.abs(drawn)
    elif name.endswith(("running_mean", ".bias")):
        drawn = 0.1 * drawn
    elif len(shape) == 1:
        drawn = 1 + 0.1 * drawn
    else:
        drawn = drawn * np.sqrt(2 / np.prod(shape[1:]))
    return drawn.astype(np.float32)


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


def _strided(layer: ConvNormRelu, x: jax.Array, train: bool) -> jax.Array:
    """Run `layer` at stride 2, which the whole S3D has in its first block and a stem of ours has nowhere."""
    kernel = layer.kernel[...]
    if layer.spatial:
        x = convolve(x, kernel)[:, :, ::2, ::2]
    else:
        rows = x.reshape(x.shape[0], -1, *x.shape[3:])
        x = convolve_time(rows, kernel[:, 0])[:, :, ::2].reshape(*x.shape[:3], -1, kernel.shape[-1])
    return jax.nn.relu(layer.norm(x, train=train, valid=None))


def _stages(stem: ConvStem, video: jax.Array, train: bool) -> list[jax.Array]:
    """Return what each stage gives, [B, T, Y, X, C]: entry, pooling, mixing, second block, pooling."""
    options = {"train": train, "valid": None}
    entered = _strided(stem.entry.time, jnp.moveaxis(_strided(stem.entry.space, video, train), 1, 3), train)
    pooled = halve_space(entered)
    mixed = stem.mix(pooled, **options)
    refined = stem.refine(mixed, **options)
    return [jnp.moveaxis(entered, 3, 1), pooled, mixed, jnp.moveaxis(refined, 3, 1), halve_space(refined)]


def _summary(x: np.ndarray) -> np.ndarray:
    """Return what the file holds of a stage [B, C, T, Y, X]: mean, deviation, largest, 29 values from all over it."""
    flat = x.reshape(-1)
    return np.array([x.mean(), x.std(ddof=1), np.abs(x).max(), *flat[:: flat.size // 29][:29]])


@golden_files.each("s3d")
def test_first_stages_of_the_whole_network(path):
    """In float32 only: convolutions of this size in float64 would take as long as all else here."""
    arrays = load(path)
    shapes = json.loads(str(arrays["shapes_json"]))
    options = {"momentum": 0.999, "dtype": jnp.dtype("float32"), "rngs": nnx.Rngs(0)}
    stem = ConvStem(64, shapes["base.3.conv_s.weight"][0], **options)
    stem.entry = SeparableConv(RGB, 64, 7, **options)
    graph, params, stats = _filled(stem, "base.", "float32")
    video = np.random.RandomState(5).random_sample((2, RGB, 16, 64, 64)).transpose(0, 2, 3, 4, 1).astype(np.float32)

    def run(params, stats, train):
        stem = nnx.merge(graph, params, stats, copy=True)
        return _stages(stem, jnp.asarray(video), train), nnx.to_pure_dict(nnx.state(stem, nnx.BatchStat))

    for mode, train in (("eval", False), ("train", True)):
        stages, moved = quick_jit(lambda p, s, train=train: run(p, s, train))(params, stats)
        for index, stage in enumerate(stages):
            ours = np.asarray(stage, np.float64).transpose(0, 4, 1, 2, 3)
            assert list(ours.shape) == arrays[f"{mode}/stage{index}_shape"].tolist()
            close(_summary(ours), arrays[f"{mode}/stage{index}"], TOLERANCE["float32"], f"{mode}/stage{index}")
    for name, ours in (("running_mean", "mean"), ("running_var", "var")):
        found, stored = moved["entry"]["space"]["norm"][ours], arrays[f"{name}_after_train/base.0.bn_s"]
        close(found, stored, TOLERANCE["float32"], name)
