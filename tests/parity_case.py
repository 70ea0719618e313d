"""A golden file of one training step of the original, replayed by our model.

`Case` turns the stored config, parameters, video and draws into ours, and keeps the original's faults that
its numbers hold; `parity.py` compares what comes out.
"""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.default import get_config
from hvt_jax.engine import state as state_lib
from hvt_jax.interop import original, original_config
from hvt_jax.objectives import local
from hvt_jax.objectives.draws import Draw, distance_code
from hvt_jax.settings import read_settings
from hvt_jax.settings.geometry import model_hierarchy
from tests.small import predicting

MOMENTUM = 0.8
HEAD = {"mlp_head.weight", "mlp_head.bias"}  # the original's classifier, which our model has not
# Compiling is what these tests cost: LLVM may skip its optimisations, which takes a third off.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(function):
    """Return `jax.jit(function)` for a function that runs once or twice."""
    return jax.jit(function, compiler_options=QUICK_COMPILE)


def load(path: pathlib.Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of a golden file whose key begins with `prefix`, without it."""
    with np.load(path, allow_pickle=False) as stored:
        return {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}


def read(source: pathlib.Path | dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays of a golden file, or the ones given, and what they say about themselves."""
    arrays = source if isinstance(source, dict) else load(source)
    return arrays, json.loads(str(arrays["meta_json"]))


class Pass(NamedTuple):
    """What a pass gives.

    Attributes:
      outputs: `LevelOutput` by level, states in the original's order.
      predictions: [B, N, D] by edge, those without a target included.
      losses: by source level and edge, not weighted.
      levels: the weighted sum of the losses of each level.
      total: their sum, as our objective has it.
      stats: the running statistics after the pass.
    """

    outputs: dict
    predictions: dict[str, jax.Array]
    losses: dict[str, dict[str, jax.Array]]
    levels: dict[str, jax.Array]
    total: jax.Array
    stats: dict


class Case:
    """A golden file, or its arrays, as our settings, model, variables and draws."""

    def __init__(self, source: pathlib.Path | dict[str, np.ndarray], dtype: str):
        self.arrays, self.meta = read(source)
        self.dtype = np.dtype(dtype)
        self.state = self.part("param")
        video = self.arrays["video_uint8"]
        self.video = (video / 255.0).astype(dtype)
        config = get_config()
        config.unlock()
        fields = original_config.settings_overrides(self.meta["config"], self.state)
        fields |= {"model.compute_dtype": dtype, "objective.targets": "attached"} | self._optimizer_fields()
        config.update_from_flattened_dict(fields)
        self.settings = read_settings(config)
        hierarchy = model_hierarchy(
            self.settings.model, num_frames=video.shape[1], height=video.shape[2], width=video.shape[3]
        )
        self.hierarchy = predicting(hierarchy, self.settings.objective.side)
        parts = self.settings.model, self.hierarchy
        template = jax.eval_shape(lambda: state_lib.initial_variables(*parts, key=0))
        self.graphdef = state_lib.graph_definition(*parts)
        self.params, self.stats, self.unused = original.import_state_dict(*template, self.state)
        self.params, self.stats = jax.tree.map(lambda x: jnp.asarray(x, dtype), (self.params, self.stats))
        self.draws = self._draws()

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        return {k[len(prefix) + 1 :]: v for k, v in self.arrays.items() if k.startswith(prefix + "/")}

    def our_name(self, edge) -> str:
        return f"{original_config.GROUPS[edge.source]}_{original.RELATION_SUFFIX[edge.relation]}"

    def _optimizer_fields(self) -> dict:
        """What the original's SGD was: one rate for levels, another for predictors."""
        rates = self.meta["lr"]
        (rate,) = {rate for owner, rate in rates.items() if owner.endswith("_mod")}
        (of_predictors,) = {rate for owner, rate in rates.items() if owner.endswith("_pred")} or {rate}
        fields = {"name": "sgd", "momentum": MOMENTUM, "nesterov": True, "weight_decay": 0.0, "clip_norm": 0.0}
        fields |= {"learning_rate": rate, "predictors": "rate", "predictor_rate_multiplier": of_predictors / rate}
        fields |= {"schedule": "constant", "warmup_epochs": 0.0}
        return {f"optimizer.{name}": value for name, value in fields.items()}

    def _draws(self) -> dict[str, Draw]:
        """The stored draws, which the original shares between the videos of a batch."""
        batch, hierarchy, side = self.video.shape[0], self.hierarchy, self.settings.objective.side
        draws = {}
        for edge in self.hierarchy.edges:
            causal = edge.source in self.settings.model.causal_levels
            if edge.relation == "up" or (edge.relation == "down" and causal):
                continue
            token = np.atleast_1d(self.arrays[f"tokens/{self.our_name(edge)}"])
            if edge.relation == "down":
                members, groups = hierarchy.num_members(edge.source), hierarchy.num_tokens(edge.source)
                # With side prediction the original's target is always of the first group (kept fault).
                codes = {"member": token % members}
                if not side and groups > 1:
                    codes["group"] = token // members
                target = token
            else:
                times = hierarchy.num_times(edge.source)
                code = np.asarray(distance_code(np.arange(times), token, times))
                target = token
                if edge.source == "patch":
                    patches = hierarchy.patches_per_frame
                    target = (token[:, None] * patches + np.arange(patches)).reshape(-1)
                    code = np.repeat(code, patches)
                codes = {"distance": code}
            spread = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.int32), (batch, len(x)))  # noqa: E731
            draws[str(edge)] = Draw(spread(target), {name: spread(value) for name, value in codes.items()})
        return draws

    def reorder_states(self, outputs: dict) -> dict:
        """Put the states of clips in the original's order, '(b c) f -> b (f c)' (kept fault, of that level alone)."""
        clip = outputs.get("clip")
        if clip is None or clip.states is None:
            return outputs
        batch, total, width = clip.states.shape
        groups = clip.tokens.shape[1]
        states = clip.states.reshape(batch, groups, total // groups, width).swapaxes(1, 2)
        return {**outputs, "clip": clip._replace(states=states.reshape(batch, total, width))}

    def forward(self, params, stats, *, train: bool) -> Pass:
        """Return what one pass gives."""
        pyramid = state_lib.merge(self.graphdef, params, stats)
        outputs = self.reorder_states(pyramid(jnp.asarray(self.video), train=train))
        predictions = local.predict(pyramid, outputs, self.draws, train=train, attached=True)
        weights = local.initial_edge_weights(self.hierarchy.edges, self.settings.objective)
        parts = self.hierarchy, self.settings.objective
        losses = local.local_losses(predictions, outputs, *parts, edge_weights=weights)
        levels = {level: sum(weights[e] * loss for e, loss in edges.items()) for level, edges in losses.edges.items()}
        moved = state_lib.statistics(pyramid)  # before predictors are asked a second time
        edges = self.hierarchy.edges
        predictions = {str(edge): self._whole(pyramid, outputs, predictions, edge, train) for edge in edges}
        return Pass(outputs, predictions, losses.edges, levels, losses.total, moved)

    def _whole(self, pyramid, outputs, predictions, edge, train: bool) -> jax.Array:
        """What an edge predicts, with the position that has no target: the last state's, or the first token's."""
        down = edge.relation == "down" and outputs[edge.source].states is not None
        if not down and (edge.relation != "up" or outputs[edge.target].states is None):
            return predictions[str(edge)].prediction
        source = outputs[edge.source].states if down else outputs[edge.source].tokens
        return pyramid.levels[edge.source].predictors[edge.relation](source, {}, train=train)

    def named(self, tree) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Return {original's name: (our path, our array)}."""
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        paths = {tuple(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}
        return {original.original_name(path, self.state): (path, leaf) for path, leaf in paths.items()}


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose key begins with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def close(ours, theirs, tolerance: float, label: str, largest: float = 0.0) -> None:
    """Assert that two arrays of one shape differ by at most `tolerance` of max|theirs|.

    Where all of theirs is below 1e-7 of `largest` the bound is a share of that: a bias before BatchNorm has a
    gradient of zero, and both sides hold rounding noise that is small beside the others.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, label
    scale = np.abs(theirs).max()
    scale = largest if scale < 1e-7 * largest else scale
    error = np.abs(ours - theirs).max() / scale
    assert error <= tolerance, f"{label}: error {error:.1e}"
