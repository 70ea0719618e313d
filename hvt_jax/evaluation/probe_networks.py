"""The networks that probes are made of; `attentive` has one more."""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from hvt_jax.nn.activation import gelu

Params = dict[str, jax.Array]

_matmul = functools.partial(jnp.matmul, precision="highest")


class Probe(abc.ABC):
    """A small network from what is frozen to the logits of classes; hashable, all that is static about it."""

    @abc.abstractmethod
    def initialise(self, key: jax.Array) -> Params:
        """Return fresh parameters."""

    @abc.abstractmethod
    def prepare(self, examples: jax.Array) -> jax.Array:
        """Return what all settings share of a batch of examples."""

    @abc.abstractmethod
    def logits(self, params: Params, prepared: jax.Array) -> jax.Array:
        """Return [B, classes] for prepared examples [B, ...]."""


@dataclasses.dataclass(frozen=True)
class Linear(Probe):
    """One linear map of a feature vector."""

    width: int
    num_classes: int

    def initialise(self, key: jax.Array) -> Params:
        """Return zeros: the problem is convex."""
        del key
        return {"kernel": jnp.zeros((self.width, self.num_classes)), "bias": jnp.zeros(self.num_classes)}

    def prepare(self, examples: jax.Array) -> jax.Array:
        """Return features [B, W] as they are."""
        return examples

    def logits(self, params: Params, prepared: jax.Array) -> jax.Array:
        """See `Probe`."""
        return _matmul(prepared, params["kernel"]) + params["bias"]


@dataclasses.dataclass(frozen=True)
class Mlp(Probe):
    """One hidden layer with GELU."""

    width: int
    hidden: int
    num_classes: int

    def initialise(self, key: jax.Array) -> Params:
        """See `Probe`."""
        keys = jax.random.split(key)
        return {
            "hidden": jax.random.normal(keys[0], (self.width, self.hidden)) / math.sqrt(self.width),
            "hidden_bias": jnp.zeros(self.hidden),
            "kernel": jax.random.normal(keys[1], (self.hidden, self.num_classes)) / math.sqrt(self.hidden),
            "bias": jnp.zeros(self.num_classes),
        }

    def prepare(self, examples: jax.Array) -> jax.Array:
        """Return features [B, W] as they are."""
        return examples

    def logits(self, params: Params, prepared: jax.Array) -> jax.Array:
        """See `Probe`."""
        hidden_BM = gelu(_matmul(prepared, params["hidden"]) + params["hidden_bias"])
        return _matmul(hidden_BM, params["kernel"]) + params["bias"]
