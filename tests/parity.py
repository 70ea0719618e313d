"""Run a training step of our model on a golden file of the original and compare every stored number.

`python -m tests.parity [folder]` prints the table that `test_parity.py` asserts; VERBOSE=1 adds every number
that is out of bounds.
"""

import copy
import functools
import itertools
import math
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hvt_jax.engine import optim
from hvt_jax.interop import original, original_config
from hvt_jax.objectives.methods import METHODS
from tests import golden_files
from tests.parity_case import HEAD, Case, Pass, quick_jit, read

GOLDENS = golden_files.GOLDENS
SECTIONS = ("tokens", "predictions", "losses", "gradients", "after", "later", "evaluation")
STORED = 1e-6  # of the largest value: the files hold float32 (the goldens' README)
SINGLE_LOSS = 1e-5  # of a loss, in single precision
# In single precision a ReLU of the conv stem decides by the last bit. In case 02 one of its 786,432 activations is
# 3.4e-8 in double precision and negative in single precision, which moves gradients of the stem by up to 0.4 % and
# its parameters by 0.014 %; in double precision all of them agree to 6e-8.
FLIPPED_GRADIENT, AFTER_A_FLIP = 0.05, 0.005
# What is not compared, by how its key begins, and why.
NOT_COMPARED = {
    "meta_json": "says what the case is",
    "video_uint8": "the input",
    "param/": "where the model starts; that every one is used is a test of its own",
    "tokens/": "the draws, an input, too",
}
NOT_COMPARED_IN_DOUBLE = {"f32/": "the original's own run in single precision"}

# In single precision the same arithmetic is compared with the original's own noise: `make test-long`.
BOTH = pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.long)])

Numbers = dict[str, tuple[float, float]]


def compare(
    source: pathlib.Path | dict[str, np.ndarray], dtype: str, like: pathlib.Path | None = None
) -> dict[str, Numbers]:
    """Return {section: {key: (largest error over max|x|, bound)}}; keys that end in "(absent)" are in no file.

    Args:
      source: a golden file, or arrays of one.
      dtype: "float64" or "float32".
      like: the file that the arrays have their inputs from, which is replayed once for all.
    """
    with jax.enable_x64(dtype == "float64"):
        path = source if like is None else like
        found = replay(path, dtype) if isinstance(path, pathlib.Path) else Replay(Case(path, dtype))
        return Comparison(found, source if isinstance(source, dict) else None).run()


def report(found: dict[str, Numbers]) -> list[str]:
    """Return a line for every number that is out of bounds, NaN included."""
    return [
        f"{key}: error {error:.2e} over tolerance {tolerance:.2e}"
        for section in found.values()
        for key, (error, tolerance) in section.items()
        if not error <= tolerance
    ]


def unaccounted(source: pathlib.Path | dict[str, np.ndarray], found: dict[str, Numbers], dtype: str) -> list[str]:
    """Return the keys of a file that are neither compared nor named above with a reason, or both."""
    arrays, meta = read(source)
    named = tuple(NOT_COMPARED | (NOT_COMPARED_IN_DOUBLE if dtype == "float64" else {}))
    compared = {key for section in found.values() for key in section}
    omitted = {f"omitted_{key}/{kind}" for key in meta.get("omitted_after", {}) for kind in ("sum", "l2")}
    return sorted(key for key in arrays.keys() | omitted if (key in compared) == key.startswith(named))


def follows_from_a_flip(key: str) -> bool:
    """Whether a ReLU of the conv stem that decides otherwise can move the number visibly.

    It moves gradients of the stem, by them its parameters and all that they give after the step. Running
    statistics are of the forward pass, where such an activation is 0 or nearly so.
    """
    kind, _, name = key.partition("/")
    name = name.partition("/")[2] if kind == "level_grad" else name
    of_stem = name.startswith("backbone.net.") and ".running_" not in name
    return of_stem or kind == "eval" or kind.startswith("step")


def token_variance(tokens: np.ndarray) -> np.ndarray:
    """Return the original's monitor of collapse: the variance over the tokens of a video, by feature.

    Args:
      tokens: [B, ..., D]; with one token a video [B, D], where it is the mean variance over videos.
    """
    rows = tokens if tokens.ndim == 2 else tokens.reshape(len(tokens), -1, tokens.shape[-1])
    return rows.var(-2, ddof=1).mean(0)


class Replay:
    """What our model makes of a case.

    Attributes:
      case: the case.
      passes: the pass of every step that the file has losses of.
      by_level: gradients of the first step: of each level's losses if the file has them, else {"": of their sum}.
      gradient: their sum.
      params: after one update.
      evaluation: the pass in evaluation after it, if the file has one.
    """

    def __init__(self, case: Case):
        self.case = case
        step = quick_jit(self._step)
        result, self.by_level = jax.device_get(step(case.params, case.stats))
        self.passes, self.gradient = [result], _sum(self.by_level)
        length = {"steps_per_epoch": 9, "num_steps": 9}  # the rate is constant
        groups = METHODS["local"].groups(case.hierarchy.levels)
        optimizer = optim.build_optimizer(case.settings.optimizer, groups, **length)
        update = quick_jit(optimizer.update)
        params, state = self._move(update, self.gradient, optimizer.init(case.params), case.params)
        self.params, self.evaluation = params, None
        if case.part("eval"):
            evaluate = quick_jit(lambda p, s: case.forward(p, s, train=False))
            self.evaluation = jax.device_get(evaluate(params, result.stats))
        for number in itertools.count(2):
            if not case.part(f"step{number}/loss"):
                return
            result, by_level = jax.device_get(step(params, result.stats))
            self.passes.append(result)
            params, state = self._move(update, _sum(by_level), state, params)

    def _step(self, params, stats) -> tuple[Pass, dict]:
        def losses(params):
            result = self.case.forward(params, stats, train=True)
            return (result.levels if self.case.part("level_grad") else {"": result.total}), result

        wanted, pull, result = jax.vjp(losses, params, has_aux=True)
        chosen = {name: {other: jnp.full_like(x, other == name) for other, x in wanted.items()} for name in wanted}
        return result, {name: pull(weights)[0] for name, weights in chosen.items()}

    def _move(self, update, gradient, state, params):
        """Return parameters and optimizer state after one update."""
        names = {path: name for name, (path, _) in self.case.named(params).items()}
        # What the original has not (an output map that is the identity) has no owner there: it stays.
        owned = lambda path, g: g * (names[tuple(entry.key for entry in path)] in self.case.meta["owner"])  # noqa: E731
        updates, state = update(jax.tree_util.tree_map_with_path(owned, gradient), state, params)
        return jax.device_get((optax.apply_updates(params, updates), state))


@functools.cache
def replay(path: pathlib.Path, dtype: str) -> Replay:
    """Return what our model makes of a file, once in a session."""
    with jax.enable_x64(dtype == "float64"):
        return Replay(Case(path, dtype))


class Comparison:
    """What was found in one case, or in arrays that have its inputs; `run` fills it."""

    def __init__(self, replay: Replay, arrays: dict[str, np.ndarray] | None = None):
        self.replay, self.case = replay, copy.copy(replay.case)
        self.case.arrays = replay.case.arrays if arrays is None else arrays
        self.double = self.case.dtype == np.float64
        self.noise: dict[str, float] = self.case.meta.get("noise_f32_abs", {})
        self.found: dict[str, Numbers] = {section: {} for section in SECTIONS}

    def run(self) -> dict[str, Numbers]:
        replay = self.replay
        self._forward(replay.passes[0])
        self._gradients(replay.by_level)
        self._after(replay.params, replay.passes[0].stats)
        if self.case.part("eval"):
            self._evaluation(replay.evaluation)
        for number, result in enumerate(replay.passes[1:], 2):
            if self.case.part(f"step{number}/loss"):
                self._losses("later", f"step{number}/loss", result)
        return self.found

    def check(
        self, section: str, key: str, ours, theirs, *, noise: float | None = None, scale: float | None = None
    ) -> None:
        """Note the error of `key` over `scale`, max|theirs| if not given, and its bound."""
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        ours = ours if ours.shape == theirs.shape else ours.reshape(theirs.shape)
        noise = self.noise.get(key, 0.0) if noise is None else noise
        scale = max(np.abs(theirs).max(initial=0), 1e-30) if scale is None else scale
        error = np.abs(ours - theirs).max(initial=0) / scale
        self.found[section][key] = float(error), STORED if self.double else self.single_bound(key, noise / scale)

    def single_bound(self, key: str, noise: float) -> float:
        """Return the bound in float32, where the original's own relative noise counts ten times (their README)."""
        bound = STORED + 10 * noise
        if key.startswith("loss/"):
            bound = SINGLE_LOSS
        elif key.startswith("f32/"):
            bound = SINGLE_LOSS + noise  # the number itself has that noise
        if self.case.settings.model.stem.kind == "conv" and follows_from_a_flip(key):
            bound = max(bound, FLIPPED_GRADIENT if "grad/" in key else AFTER_A_FLIP)
        return bound

    def _forward(self, result: Pass) -> None:
        case = self.case
        for level in case.hierarchy.levels:
            group, output = original_config.GROUPS[level], result.outputs[level]
            stored = case.arrays[f"target_agg/{group}"]
            self.check("tokens", f"target_agg/{group}", output.tokens, stored)
            if output.states is not None:
                self.check("tokens", f"target/{group}", output.states, case.arrays[f"target/{group}"])
            if f"token_variance/{group}" in case.arrays:
                variance = token_variance(output.tokens.reshape(stored.shape)).mean()
                self.check("tokens", f"token_variance/{group}", variance, case.arrays[f"token_variance/{group}"])
        for edge in case.hierarchy.edges:
            key = f"prediction/{case.our_name(edge)}"
            self.check("predictions", key, result.predictions[str(edge)], case.arrays[key])
        self._losses("losses", "loss", result)
        self.check("losses", "total (absent)", result.total, sum(result.levels.values()))
        if not self.double:
            self._losses("losses", "f32/loss", result)

    def _losses(self, section: str, prefix: str, result: Pass) -> None:
        for edge in self.case.hierarchy.edges:
            name = f"{original_config.GROUPS[edge.source]}/{edge.relation}"
            key, noise = f"{prefix}/{name}", None
            if prefix == "f32/loss":
                noise = self.noise.get(f"loss/{name}", 0.0)
            if prefix == "loss" or key in self.case.arrays:
                loss = result.losses[edge.source][str(edge)]
                self.check(section, key, loss, self.case.arrays[key], noise=noise)

    def _gradients(self, by_level: dict) -> None:
        levels = {f"level_grad/{original_config.GROUPS[level]}": tree for level, tree in by_level.items() if level}
        whole = self.case.part("grad")
        for prefix, tree in {**levels, "grad": self.replay.gradient}.items():
            stored = self.case.part(prefix)
            # Nothing of another level, or nothing at all, may come where the original has no gradient.
            silent = whole.keys() if prefix in levels else self.case.meta.get("never_gets_grad", ())
            for name, (path, leaf) in self.case.named(tree).items():
                if name in stored:
                    theirs = original.to_our_layout(path, stored[name])
                    self._gradient(f"{prefix}/{name}", name, leaf, theirs, np.abs(whole.get(name, 0.0)).max())
                elif name in silent:
                    self.check("gradients", f"{prefix}/{name} (absent)", leaf, np.zeros(leaf.shape))
                if name in stored and path[-2:] == ("distance", "table"):
                    row = _row_0(stored[name])
                    self.check("gradients", f"{prefix}/{name} row 0 (absent)", np.zeros(row.shape), row)

    def _gradient(self, key: str, name: str, ours, theirs, whole: float) -> None:
        noise, scale = self.noise.get(f"grad/{name}", 0.0), None
        if name in self.case.meta.get("mathematically_zero_grad", ()):
            noise, scale = 1e-4, 1.0  # rounding noise on both sides: compared absolutely
        elif np.abs(theirs).max() < 1e-9 * whole:
            scale = whole  # zero for one level, as of a bias before the BatchNorm of its predictors
        self.check("gradients", key, ours, theirs, noise=noise, scale=scale)

    def _after(self, params, stats) -> None:
        case, stored = self.case, self.case.part("after")
        named = case.named(params) | case.named(stats)
        for name in stored.keys() & named.keys():
            path, leaf = named[name]
            self.check("after", f"after/{name}", leaf, original.to_our_layout(path, stored[name]))
            if path[-2:] == ("distance", "table"):
                self.check("after", f"after/{name} row 0 (absent)", _row_0(case.state[name]), _row_0(stored[name]))
        for name in stored.keys() & HEAD:  # no optimizer of the original has it, so it stays
            self.check("after", f"after/{name}", case.state[name], stored[name])
        for key, summary in case.meta.get("omitted_after", {}).items():
            leaf, root = named[key.removeprefix("after/")][1], math.sqrt(math.prod(summary["shape"]))
            noise = self.noise.get(key, 0.0) * root
            norm = np.linalg.norm(np.asarray(leaf, np.float64))
            self.check("after", f"omitted_{key}/l2", norm, summary["l2"], noise=noise)
            # The sum itself may be near zero.
            total, scale = np.sum(leaf, dtype=np.float64), summary["l2"] * root
            self.check("after", f"omitted_{key}/sum", total, summary["sum"], noise=noise * root, scale=scale)

    def _evaluation(self, result: Pass) -> None:
        arrays, state = self.case.arrays, self.case.state
        features = result.outputs[self.case.hierarchy.levels[-1]].tokens[:, 0]
        if "eval/features" in arrays:
            self.check("evaluation", "eval/features", features, arrays["eval/features"])
        if "eval/log_probs" in arrays:
            logits = features @ state["mlp_head.weight"].T + state["mlp_head.bias"]
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            self.check("evaluation", "eval/log_probs", log_probs, arrays["eval/log_probs"])
        self._losses("evaluation", "eval/loss", result)


def _sum(trees: dict):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees.values())


def _row_0(table: np.ndarray) -> np.ndarray:
    # Of the codes of distances, where the original's index never points.
    return table.reshape(table.shape[-2:])[0]


def _worst(numbers: Numbers) -> str:
    return f"{max(error for error, _ in numbers.values()):.1e}" if numbers else "-"


def main(folder: str | None = None) -> None:
    """Print the largest relative error per section and file, in float64 and float32."""
    paths = pathlib.Path(folder).glob("*.npz") if folder else ()
    files = sorted(p for p in paths if golden_files.kind_of(p) == "step") if folder else golden_files.of_kind("step")
    if not files:
        raise SystemExit(f"{folder} holds no training step of the original (.npz)")
    print(f"{'case':56s} {'dtype':8s} " + " ".join(f"{section:>12s}" for section in SECTIONS))
    for path in files:
        for dtype in ("float64", "float32"):
            found = compare(path, dtype)
            over, left = report(found), unaccounted(path, found, dtype)
            errors = " ".join(f"{_worst(found[section]):>12s}" for section in SECTIONS)
            name = path.stem if folder else golden_files.label(path)
            print(f"{name:56s} {dtype:8s} {errors}  over: {len(over)}  unaccounted: {len(left)}")
            for line in [*over, *left] if os.environ.get("VERBOSE") else ():
                print("  ", line)


if __name__ == "__main__":
    main(*sys.argv[1:])
