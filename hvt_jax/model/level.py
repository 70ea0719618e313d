"""One level: a transformer that turns groups of tokens into one token each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from hvt_jax.nn import normalization
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.positions import LearnedTable
from hvt_jax.nn.transformer import Transformer
from hvt_jax.settings.model_settings import LevelSettings

_ENCODES = ("input_projection", "class_token", "transformer")  # parts of a level that make the encoding


class LevelOutput(NamedTuple):
    """What a level makes of a batch of videos.

    Attributes:
      tokens: [B, G, D], after the output norm; one per group, in time order.
      raw: [B, G, D], the same before the norm; what regularisers and monitors look at.
      states: [B, G·M, D], a summary of what came before at every member, after a norm of its own;
        None unless the level is causal.
    """

    tokens: jax.Array
    raw: jax.Array
    states: jax.Array | None


class Level(nnx.Module):
    """Input map, positions, transformer, output norm, and the predictors of this level's edges.

    Not causal: a class token in front whose output is the token. Causal: no class token; the token is
    the last state that still gets supervision, which is the last one of every group but the sequence's
    last group (where it is the one before, as nothing follows the very last member).
    """

    def __init__(
        self,
        settings: LevelSettings,
        width_in: int,
        num_members: int,
        *,
        attention: str = "xla",
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        width = settings.width
        self.causal, self.num_members, self.dtype = settings.causal, num_members, dtype
        self.groups_at_once = settings.groups_at_once
        self.input_projection = None if width_in == width else Linear(width_in, width, dtype=dtype, rngs=rngs)
        self.class_token = None if settings.causal else LearnedTable(1, width, rngs=rngs)
        self.positions = LearnedTable(num_members + (0 if settings.causal else 1), width, rngs=rngs)
        self.dropout = nnx.Dropout(settings.dropout)
        self.transformer = Transformer(
            width,
            depth=settings.depth,
            causal=settings.causal,
            dropout=settings.dropout,
            remat=settings.remat,
            scan=settings.scan,
            dtype=dtype,
            rngs=rngs,
            num_heads=settings.num_heads,
            head_width=settings.head_width,
            mlp_width=settings.mlp_width,
            qkv_bias=settings.qkv_bias,
            norm_epsilon=settings.norm_epsilon,
            attention_kernel=attention,
        )
        self.output_norm = normalization.make_norm(settings.output_norm, width, dtype)
        self.state_norm = normalization.make_norm(settings.output_norm, width, dtype) if settings.causal else None

    def __call__(
        self,
        members: jax.Array,
        *,
        train: bool,
        valid: jax.Array | None = None,
        key: jax.Array | None = None,
        last_state: int = -2,
        positions: jax.Array | None = None,
    ) -> LevelOutput:
        """Group `members` [B, G·M, D_in], in time order, into G tokens.

        Args:
          members: tokens of the level below.
          train: use batch statistics and update the running ones.
          valid: bool [B]; examples that are False do not count in the statistics.
          key: for dropout; None switches it off.
          last_state: causal levels: which state of the last group is its token; -2 while training
            locally, -1 when supervised (then for all groups).
          positions: [M, D] or, one for each video, [B, M, D], that of the class token in front where there is one:
            of other members than all of a group; None: the level's own.
        """
        own = self.positions(self.dtype) if positions is None else positions.astype(self.dtype)
        num_members = own.shape[-2] - (0 if self.causal else 1)
        encoded = self._encode_groups(rearrange(members, "b (g m) d -> b g m d", m=num_members), own, key)
        if self.causal:
            raw_BGD = encoded[:, :, -1]
            if last_state != -1:
                raw_BGD = jnp.concatenate([raw_BGD[:, :-1], encoded[:, -1:, last_state]], axis=1)
            states = rearrange(encoded, "b g m d -> b (g m) d")
        else:
            raw_BGD, states = encoded[:, :, 0], None
        if states is not None:
            states = normalization.apply_norm(self.state_norm, states, train=train, valid=valid)
        tokens = normalization.apply_norm(self.output_norm, raw_BGD, train=train, valid=valid)
        return LevelOutput(tokens, raw_BGD, states)

    def attention(self, members: jax.Array, *, last_state: int = -2) -> jax.Array:
        """Return how much of each member the last layer takes into the token of its group, [B, G, H, M].

        Not causal: the weights of the class token; what it keeps of itself is left out, so they sum up to less than
        1. Causal: those of the state that is the token; they sum up to 1.

        Args:
          members: [B, G·M, D_in], tokens of the level below, in time order.
          last_state: as in a call.
        """
        rows = rearrange(members, "b (g m) d -> (b g) m d", m=self.num_members)
        tokens, _ = self._embed(rows, self.positions(self.dtype), None)
        weights = self.transformer.attention(tokens, num_outputs=None if self.causal else 1)
        weights_BGHQK = rearrange(weights, "(b g) h q k -> b g h q k", b=len(members))
        if not self.causal:
            return weights_BGHQK[..., 0, 1:]
        of_groups = weights_BGHQK[..., -1, :]
        if last_state == -1:
            return of_groups
        return jnp.concatenate([of_groups[:, :-1], weights_BGHQK[:, -1:, :, last_state]], axis=1)

    def member_outputs(self, members: jax.Array) -> jax.Array:
        """Return what the transformer makes of every member, having seen its group, [B, G·M, D].

        Args:
          members: [B, G·M, D_in], tokens of the level below, in time order.
        """
        rows = rearrange(members, "b (g m) d -> (b g) m d", m=self.num_members)
        tokens, _ = self._embed(rows, self.positions(self.dtype), None)
        outputs_RMD = self.transformer(tokens, None)[:, 0 if self.causal else 1 :]
        return rearrange(outputs_RMD, "(b g) m d -> b (g m) d", b=len(members))

    def _encode_groups(self, groups: jax.Array, positions: jax.Array, key: jax.Array | None) -> jax.Array:
        """Encode groups [B, G, M, D_in] to [B, G, 1 or M, D], all at once or some after the others.

        Groups do not see each other, so only what is computed for those at work is in memory, in the backward pass,
        too, which computes it once more.
        """
        total, at_once = groups.shape[1], self.groups_at_once
        if not at_once or at_once >= total:
            return self._encode(groups, positions, key)
        parts = -(-total // at_once)
        at_once = -(-total // parts)
        # Groups of zeros fill the last part; nobody reads what becomes of them.
        groups = jnp.pad(groups, ((0, 0), (0, parts * at_once - total), (0, 0), (0, 0)))
        groups = rearrange(groups, "b (p g) m d -> p b g m d", p=parts)
        graphdef, state, rest = nnx.split(self, lambda path, _: path[0] in _ENCODES, ...)

        def encode(state, positions, groups, key):
            return nnx.merge(graphdef, state, rest)._encode(groups, positions, key)

        keys = None if key is None else jax.random.split(key, parts)
        run = jax.checkpoint(encode)
        encoded = jax.lax.map(lambda part: run(state, positions, *part), (groups, keys))
        return rearrange(encoded, "p b g m d -> b (p g) m d")[:, :total]

    def _encode(self, groups: jax.Array, positions: jax.Array, key: jax.Array | None) -> jax.Array:
        """Encode groups [B, G, M, D_in], each by itself, to [B, G, 1 or M, D]."""
        tokens = rearrange(groups, "b g m d -> (b g) m d")
        if positions.ndim > 2:
            positions = jnp.repeat(positions, groups.shape[1], axis=0)
        tokens, layer_key = self._embed(tokens, positions, key)
        # Nothing reads the outputs of the members once the class token has seen them.
        encoded = self.transformer(tokens, layer_key, num_outputs=None if self.causal else 1)
        return rearrange(encoded, "(b g) m d -> b g m d", g=groups.shape[1])

    def _embed(
        self, tokens: jax.Array, positions: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the transformer is given, [rows, length, D], and its key."""
        tokens = tokens.astype(self.dtype)
        if self.input_projection is not None:
            tokens = self.input_projection(tokens)
        if self.class_token is not None:
            class_tokens = jnp.broadcast_to(self.class_token(self.dtype), (tokens.shape[0], 1, tokens.shape[-1]))
            tokens = jnp.concatenate([class_tokens, tokens], axis=1)
        tokens = tokens + positions
        layer_key = None
        if key is not None:
            key, layer_key = jax.random.split(key)
            tokens = self.dropout(tokens, deterministic=False, rngs=key)
        return tokens, layer_key
