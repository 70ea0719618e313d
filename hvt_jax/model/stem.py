"""From pixels to patch tokens."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from hvt_jax.nn import normalization
from hvt_jax.nn.convolution import ConvNormRelu, SeparableConv, halve_space
from hvt_jax.nn.linear import Linear
from hvt_jax.settings.model_settings import ModelSettings

RGB = 3


class ConvStem(nnx.Module):
    """The S3D stem: T is kept, Y and X shrink to a quarter (Xie et al. 2018, first blocks)."""

    def __init__(self, width: int, channels: int, *, momentum: float, dtype, rngs: nnx.Rngs):
        options = {"momentum": momentum, "dtype": dtype, "rngs": rngs}
        self.entry = SeparableConv(RGB, width, 5, **options)
        self.mix = ConvNormRelu(width, width, 1, spatial=True, **options)
        self.refine = SeparableConv(width, channels, 3, **options)

    def __call__(self, video: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        """Map [B, T, Y, X, 3] to [B, T, Y/4, X/4, channels]."""
        x = halve_space(self.entry(video, train=train, valid=valid))
        return halve_space(self.refine(self.mix(x, train=train, valid=valid), train=train, valid=valid))


def cut_patches(x: jax.Array, size: int) -> jax.Array:
    """Cut [B, T, Y, X, C] into squares: [B, T, P, size·size·C], row by row, values in (y, x, c) order."""
    return rearrange(x, "b t (row y) (column x) c -> b t (row column) (y x c)", y=size, x=size)


class Stem(nnx.Module):
    """Patches of the pixels, or of the conv stem's map, mapped linearly and normalised."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        stem, dtype = settings.stem, jnp.dtype(settings.compute_dtype)
        self.dtype, self.patch_size = dtype, stem.patch_size
        channels = stem.channels if stem.kind == "conv" else RGB
        self.convolutions = (
            ConvStem(stem.width, channels, momentum=stem.norm_momentum, dtype=dtype, rngs=rngs)
            if stem.kind == "conv"
            else None
        )
        self.embedding = Linear(stem.patch_size**2 * channels, settings.patch.width, dtype=dtype, rngs=rngs)
        self.output_norm = normalization.make_norm(settings.patch.output_norm, settings.patch.width, dtype)

    def __call__(self, video: jax.Array, *, train: bool, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the patch tokens of a video.

        Args:
          video: float [B, T, Y, X, 3], normalised.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.

        Returns:
          (tokens, raw): both [B, T·P, D], after and before the output norm.
        """
        x = video.astype(self.dtype)
        if self.convolutions is not None:
            x = self.convolutions(x, train=train, valid=valid)
        raw_BTPD = self.embedding(cut_patches(x, self.patch_size))
        raw_BND = rearrange(raw_BTPD, "b t p d -> b (t p) d")
        return normalization.apply_norm(self.output_norm, raw_BND, train=train, valid=valid), raw_BND
