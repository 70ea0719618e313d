"""From pixels to patch tokens."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from hvt_jax.model.s3d import S3D
from hvt_jax.nn import frozen, normalization
from hvt_jax.nn.convolution import ConvNormRelu, SeparableConv, halve_space
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.recompute import recomputed
from hvt_jax.settings.geometry import S3D_WIDTH
from hvt_jax.settings.model_settings import ModelSettings, StemSettings

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
    """Patches of the pixels, or of the map of convolutions, mapped linearly and normalised.

    Convolutions that are not trainable stay as they are, and use their running statistics in training, too.
    """

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        stem, dtype = settings.stem, jnp.dtype(settings.compute_dtype)
        self.dtype, self.patch_size, self.trainable = dtype, stem.patch_size, stem.trainable
        self.convolutions, channels = _make_convolutions(stem, dtype, rngs)
        if not stem.trainable:
            frozen.freeze(self.convolutions)
        self.embedding = Linear(stem.patch_size**2 * channels, settings.patch.width, dtype=dtype, rngs=rngs)
        self.output_norm = normalization.make_norm(settings.patch.output_norm, settings.patch.width, dtype)
        # Where frames are encoded in pieces to save memory, what is kept for a whole video is most of the rest.
        self.recompute = bool(settings.frame.groups_at_once)

    def __call__(self, video: jax.Array, *, train: bool, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the patch tokens of a video.

        Args:
          video: float [B, T, Y, X, 3], normalised.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.

        Returns:
          (tokens, raw): both [B, T·P, D], after and before the output norm; with the S3D stem [B, T/8·P, D].
        """
        x = video.astype(self.dtype)
        if self.convolutions is not None:
            x = self.convolutions(x, train=train and self.trainable, valid=valid)
        patches, parts = cut_patches(x, self.patch_size), (self.embedding, self.output_norm)
        if not self.recompute:
            return _embed(parts, patches, train=train, valid=valid)
        graphdef, params, stats = nnx.split(parts, nnx.Param, ...)

        def embed(params, stats, patches, valid):
            again = nnx.merge(graphdef, params, stats)
            return _embed(again, patches, train=train, valid=valid), nnx.state(again, nnx.Not(nnx.Param))

        outputs, stats = recomputed(embed)(params, stats, patches, valid)
        nnx.update(parts, stats)
        return outputs


def _embed(parts: tuple, patches: jax.Array, *, train: bool, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    embedding, output_norm = parts
    raw_BND = rearrange(embedding(patches), "b t p d -> b (t p) d")
    return normalization.apply_norm(output_norm, raw_BND, train=train, valid=valid), raw_BND


def _make_convolutions(stem: StemSettings, dtype: jnp.dtype, rngs: nnx.Rngs) -> tuple[nnx.Module | None, int]:
    """Return what makes the map that patches are cut from, None for the pixels themselves, and its channels."""
    options = {"momentum": stem.norm_momentum, "dtype": dtype, "rngs": rngs}
    if stem.kind == "linear":
        return None, RGB
    if stem.kind == "conv":
        return ConvStem(stem.width, stem.channels, **options), stem.channels
    return S3D(**options), S3D_WIDTH


def merge_frames(frame_valid: jax.Array | None, step: int) -> jax.Array | None:
    """Return which frames of the hierarchy are pictures, bool [B, T/step]: those with one in them; None stays None.

    Args:
      frame_valid: bool [B, T], of the video.
      step: frames of the video in one of the hierarchy, `Hierarchy.frame_step`.
    """
    return frame_valid if frame_valid is None else frame_valid.reshape(len(frame_valid), -1, step).any(-1)
