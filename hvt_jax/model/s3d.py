"""S3D, the separable 3-D Inception network, whole (Xie et al. 2018, arXiv 1712.04851): a stem, or an encoder alone.

Channels and strides are those of the published Kinetics weights (`interop.s3d`). Behind every convolution stand
BatchNorm with epsilon 1e-3 and ReLU.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax import shapes
from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.level import LevelOutput
from hvt_jax.nn.convolution import ConvNormRelu, SeparableConv, halve_space, max_pool
from hvt_jax.settings.model_settings import ModelSettings

_RGB, _ENTRY, _REFINED = 3, 64, 192  # channels: of the video, of the first map, of what the first block sees
# Of every block, the channels of its branches: 1x1 | 1x1, then 3x3x3 | 1x1, then 3x3x3 | pooled, then 1x1.
BLOCKS = {
    "mixed_3b": (64, (96, 128), (16, 32), 32),
    "mixed_3c": (128, (128, 192), (32, 96), 64),
    "mixed_4b": (192, (96, 208), (16, 48), 64),
    "mixed_4c": (160, (112, 224), (24, 64), 64),
    "mixed_4d": (128, (128, 256), (24, 64), 64),
    "mixed_4e": (112, (144, 288), (32, 64), 64),
    "mixed_4f": (256, (160, 320), (32, 128), 128),
    "mixed_5b": (256, (160, 320), (32, 128), 128),
    "mixed_5c": (384, (192, 384), (48, 128), 128),
}
# Before these blocks all three axes are halved: by windows of 3 that overlap, by windows of 2 that do not.
_HALVED_BEFORE = {"mixed_4b": 3, "mixed_5b": 2}
LAYERS = ("entry", "mix", "refine", *BLOCKS)  # with parameters, the lowest first
_VOLUME = (1, 2, 3)  # axes of time, rows and columns


class InceptionBlock(nnx.Module):
    """Four branches side by side over the same map, their channels joined."""

    def __init__(self, channels_in: int, channels: tuple, **options):
        direct, (reduced_1, wide_1), (reduced_2, wide_2), pooled = channels
        self.branch0 = ConvNormRelu(channels_in, direct, 1, spatial=True, **options)
        self.branch1_reduce = ConvNormRelu(channels_in, reduced_1, 1, spatial=True, **options)
        self.branch1 = SeparableConv(reduced_1, wide_1, 3, **options)
        self.branch2_reduce = ConvNormRelu(channels_in, reduced_2, 1, spatial=True, **options)
        self.branch2 = SeparableConv(reduced_2, wide_2, 3, **options)
        self.branch3 = ConvNormRelu(channels_in, pooled, 1, spatial=True, **options)

    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, C] to the same sizes with the channels of all branches."""
        options = {"train": train, "valid": valid}
        parts = [self.branch0(x, **options)]
        for reduce, convolve in ((self.branch1_reduce, self.branch1), (self.branch2_reduce, self.branch2)):
            parts.append(jnp.moveaxis(convolve(reduce(x, **options), **options), 3, 1))
        parts.append(self.branch3(max_pool(x, _VOLUME, size=3, stride=1), **options))
        return jnp.concatenate(parts, axis=-1)


class S3D(nnx.Module):
    """The network up to its last block, without pooling and classifier; parameters read `mixed_3b/branch1/time/...`."""

    def __init__(self, *, momentum: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"momentum": momentum, "dtype": dtype, "rngs": rngs}
        self.entry = SeparableConv(_RGB, _ENTRY, 7, stride=2, **options)
        self.mix = ConvNormRelu(_ENTRY, _ENTRY, 1, spatial=True, **options)
        self.refine = SeparableConv(_ENTRY, _REFINED, 3, **options)
        channels_in = _REFINED
        for name, channels in BLOCKS.items():
            setattr(self, name, InceptionBlock(channels_in, channels, **options))
            direct, (_, wide_1), (_, wide_2), pooled = channels
            channels_in = direct + wide_1 + wide_2 + pooled

    def __call__(self, video: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map a video [B, T, Y, X, 3] to [B, T/8, Y/32, X/32, 1024], for T a multiple of 8, Y and X of 32.

        Args:
          video: float, normalised.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
        """
        *_, (_, x) = self.stages(video, train=train, valid=valid)
        return x

    def stages(self, video: jax.Array, *, train: bool, valid: jax.Array | None) -> Iterator[tuple[str, jax.Array]]:
        """Yield the map [B, T, Y, X, C] behind each of the 16 stages, by its name; the last one is the output."""
        options = {"train": train, "valid": valid}
        x = self.entry(video, **options)
        yield "entry", jnp.moveaxis(x, 3, 1)
        x = halve_space(x)
        yield "entry_pooled", x
        x = self.mix(x, **options)
        yield "mix", x
        x = self.refine(x, **options)
        yield "refine", jnp.moveaxis(x, 3, 1)
        x = halve_space(x)
        yield "refine_pooled", x
        for name in BLOCKS:
            if name in _HALVED_BEFORE:
                x = max_pool(x, _VOLUME, size=_HALVED_BEFORE[name], stride=2)
                yield f"before_{name}", x
            x = getattr(self, name)(x, **options)
            yield name, x


def pool(x: jax.Array) -> jax.Array:
    """Return the features [B, 1024] of maps [B, T, Y, X, 1024]: the mean over space and time, at least in float32.

    In time the mean is that of the means of neighbouring pairs, as the Kinetics weights were trained with: of several
    times the first and the last count half.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((2, 3))
    if x.shape[1] > 1:
        x = (x[:, :-1] + x[:, 1:]) / 2
    return x.mean(1)


class S3DEncoder(nnx.Module):
    """S3D in the place of a hierarchy: one level, `clip`, with one token a video, the pooled features.

    Parameter paths read `levels/clip/mixed_3b/...`.
    """

    def __init__(self, settings: ModelSettings, hierarchy: Hierarchy, *, rngs: nnx.Rngs):
        self.hierarchy, self.dtype = hierarchy, jnp.dtype(settings.compute_dtype)
        network = S3D(momentum=settings.stem.norm_momentum, dtype=self.dtype, rngs=rngs)
        self.levels = nnx.Dict({hierarchy.levels[-1]: network})
        self.dropout = nnx.Dropout(settings.clip.dropout)

    def __call__(
        self,
        video: jax.Array,
        *,
        train: bool,
        valid: jax.Array | None = None,
        key: jax.Array | None = None,
        isolated: bool = True,
        last_state: int = -2,
    ) -> dict[str, LevelOutput]:
        """Encode a video, as `Pyramid` does: tokens and raw [B, 1, 1024] of the one level.

        Args:
          video: float [B, T, Y, X, 3], normalised with the data set's mean and deviation.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
          key: for the dropout of the token, which `raw` is without; None switches it off.
          isolated: of no effect, there is no border.
          last_state: of no effect, nothing is causal.
        """
        del isolated, last_state
        shapes.check_video(video.shape, self.hierarchy.num_frames)
        (level,) = self.hierarchy.levels
        raw_BD = pool(self.levels[level](video, train=train, valid=valid)).astype(self.dtype)
        tokens_BD = raw_BD if key is None else self.dropout(raw_BD, deterministic=False, rngs=key)
        return {level: LevelOutput(tokens_BD[:, None], raw_BD[:, None], None)}
