"""An encoder with a linear head that names a class: what supervised training trains."""

import jax
import jax.numpy as jnp
from flax import nnx

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.model.s3d import S3DEncoder
from hvt_jax.nn.linear import Linear
from hvt_jax.settings.model_settings import ModelSettings


class Classifier(Pyramid):
    """A pyramid without predictors, and `head/...`, a linear map from a token of its top level to the classes."""

    def __init__(self, settings: ModelSettings, hierarchy: Hierarchy, num_classes: int, *, rngs: nnx.Rngs):
        super().__init__(settings, hierarchy, rngs=rngs)
        self.head = _make_head(settings, hierarchy, num_classes, rngs)


class S3DClassifier(S3DEncoder):
    """S3D, and `head/...`, a linear map from its pooled features to the classes."""

    def __init__(self, settings: ModelSettings, hierarchy: Hierarchy, num_classes: int, *, rngs: nnx.Rngs):
        super().__init__(settings, hierarchy, rngs=rngs)
        self.head = _make_head(settings, hierarchy, num_classes, rngs)


CLASSIFIERS = {"hierarchy": Classifier, "s3d": S3DClassifier}  # by `model.encoder`


def _make_head(settings: ModelSettings, hierarchy: Hierarchy, num_classes: int, rngs: nnx.Rngs) -> Linear:
    """Return a head that begins as a linear layer of torch does, uniform within 1/sqrt(width), and so does its bias.

    At zero it would let no gradient through to the levels in the first step. It computes in float32 at least.
    """
    width = getattr(settings, hierarchy.levels[-1]).width
    dtype = jnp.promote_types(settings.compute_dtype, jnp.float32)
    head = Linear(width, num_classes, dtype=dtype, rngs=rngs)
    for part in (head.kernel, head.bias):
        bound = width**-0.5
        part[...] = jax.random.uniform(rngs.params(), part.shape, minval=-bound, maxval=bound)
    return head
