"""Run one step of our model on a golden file of the original and compare every stored number.

`python -m tests.parity [folder]` prints the table that `test_parity.py` asserts.
"""

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from configs.default import get_config
from hvt_jax.engine import state as state_lib
from hvt_jax.interop import original, original_config
from hvt_jax.model.pyramid import model_geometry
from hvt_jax.objectives import local
from hvt_jax.objectives.draws import Draw, distance_code
from hvt_jax.settings import read_settings

GOLDENS = pathlib.Path(__file__).parent / "goldens"
MOMENTUM = 0.8
HEAD = {"mlp_head.weight", "mlp_head.bias"}  # the original's classifier, which our model has not
# Compiling is what these tests cost: LLVM may skip its optimisations, which takes a third off.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SECTIONS = ("tokens", "predictions", "losses", "gradients", "after", "evaluation")


def golden_files() -> list[pathlib.Path]:
    """Return the project's cases and those of the folder named by HVT_GOLDENS."""
    folders = [GOLDENS, *([pathlib.Path(os.environ["HVT_GOLDENS"])] if os.environ.get("HVT_GOLDENS") else [])]
    files = {path.name: path for folder in reversed(folders) for path in sorted(folder.glob("ht_*.npz"))}
    return [files[name] for name in sorted(files)]


class Case:
    """A golden file, or its arrays, as our settings, model, variables and draws."""

    def __init__(self, source: pathlib.Path | dict[str, np.ndarray], dtype: str):
        self.arrays = source if isinstance(source, dict) else dict(np.load(source, allow_pickle=False))
        self.meta = json.loads(str(self.arrays["meta_json"]))
        self.dtype = np.dtype(dtype)
        self.state = self.part("param")
        video = self.arrays["video_uint8"]
        self.video = (video / 255.0).astype(dtype)
        config = get_config()
        config.unlock()
        fields = original_config.settings_overrides(self.meta["config"], self.state)
        fields |= {"model.compute_dtype": dtype, "objective.targets": "attached"}
        config.update_from_flattened_dict(fields)
        self.settings = read_settings(config)
        self.geometry = model_geometry(
            self.settings.model, num_frames=video.shape[1], height=video.shape[2], width=video.shape[3]
        )
        side = self.settings.objective.side
        template = jax.eval_shape(
            lambda: state_lib.initial_variables(self.settings.model, self.geometry, side=side, key=0)
        )
        self.graphdef = state_lib.graph_definition(self.settings.model, self.geometry, side=side)
        self.params, self.stats, self.unused = original.import_state_dict(*template, self.state)
        self.params, self.stats = jax.tree.map(lambda x: jnp.asarray(x, dtype), (self.params, self.stats))
        self.edges = state_lib.merge(self.graphdef, self.params, self.stats).edges
        self.draws = self._draws()

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        return {k[len(prefix) + 1 :]: v for k, v in self.arrays.items() if k.startswith(prefix + "/")}

    def our_name(self, edge) -> str:
        return f"{original_config.GROUPS[edge.source]}_{original.RELATION_SUFFIX[edge.relation]}"

    def _draws(self) -> dict[str, Draw]:
        """The stored draws, which the original shares between the videos of a batch."""
        batch, geometry, side = self.video.shape[0], self.geometry, self.settings.objective.side
        draws = {}
        for edge in self.edges:
            causal = edge.source in self.settings.model.causal_levels
            if edge.relation == "up" or (edge.relation == "down" and causal):
                continue
            token = np.atleast_1d(self.arrays[f"tokens/{self.our_name(edge)}"])
            if edge.relation == "down":
                members, groups = geometry.num_members(edge.source), geometry.num_tokens(edge.source)
                # With side prediction the original's target is always of the first group (kept fault).
                codes = {"member": token % members}
                if not side and groups > 1:
                    codes["group"] = token // members
                target = token
            else:
                times = geometry.num_times(edge.source)
                code = np.asarray(distance_code(np.arange(times), token, times))
                target = token
                if edge.source == "patch":
                    patches = geometry.patches_per_frame
                    target = (token[:, None] * patches + np.arange(patches)).reshape(-1)
                    code = np.repeat(code, patches)
                codes = {"distance": code}
            spread = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.int32), (batch, len(x)))  # noqa: E731
            draws[str(edge)] = Draw(spread(target), {name: spread(value) for name, value in codes.items()})
        return draws

    def reorder_states(self, outputs: dict) -> dict:
        """Put states of batched causal levels in the original's order, '(b c) f -> b (f c)' (kept fault)."""
        reordered = dict(outputs)
        for level, output in outputs.items():
            groups = output.tokens.shape[1]
            if output.states is not None and groups > 1:
                batch, total, width = output.states.shape
                states = output.states.reshape(batch, groups, total // groups, width).swapaxes(1, 2)
                reordered[level] = output._replace(states=states.reshape(batch, total, width))
        return reordered

    def forward(self, params, stats, *, train: bool):
        """Return (total loss, everything else) of one pass."""
        pyramid = state_lib.merge(self.graphdef, params, stats)
        outputs = self.reorder_states(pyramid(jnp.asarray(self.video), train=train))
        predictions = local.predict(pyramid, outputs, self.draws, train=train, attached=True)
        weights = local.initial_edge_weights(self.edges, self.settings.objective)
        losses = local.local_losses(predictions, outputs, self.edges, self.settings.objective, edge_weights=weights)
        return losses.total, (outputs, predictions, losses, state_lib.statistics(pyramid))

    def named(self, tree) -> dict[str, np.ndarray]:
        """Return {original's name: our array in our layout}."""
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        paths = {tuple(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}
        return {original.original_name(path, self.state): (path, leaf) for path, leaf in paths.items()}


def quick_jit(function):
    """Return `jax.jit(function)` for a function that runs once or twice."""
    return jax.jit(function, compiler_options=QUICK_COMPILE)


def compare(source: pathlib.Path | dict[str, np.ndarray], dtype: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Return {section: {key: (largest error over max|x|, tolerance as the goldens' README gives it)}}."""
    with jax.enable_x64(dtype == "float64"):
        return _Comparison(Case(source, dtype)).run()


def report(found: dict[str, dict[str, tuple[float, float]]], skip=lambda key: False) -> list[str]:
    """Return a line for every number that is out of tolerance, NaN included."""
    return [
        f"{key}: error {error:.2e} over tolerance {tolerance:.2e}"
        for section in found.values()
        for key, (error, tolerance) in section.items()
        if not error <= tolerance and not skip(key)
    ]


class _Comparison:
    def __init__(self, case: Case):
        self.case = case
        self.found: dict[str, dict[str, tuple[float, float]]] = {section: {} for section in SECTIONS}
        self.double = case.dtype == np.float64

    def check(self, section: str, key: str, ours, theirs) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            ours = ours.reshape(theirs.shape)
        scale = max(np.abs(theirs).max(), 1e-30)
        noise = self.case.meta["noise_f32_abs"].get(key, 0.0)
        # Storage rounding is float32; in float32 the original's own noise counts ten times (README).
        tolerance = 1e-6 + (0.0 if self.double else 10 * noise / scale)
        if key.removeprefix("grad/") in self.case.meta.get("mathematically_zero_grad", ()):
            scale, tolerance = 1.0, 1e-6 if self.double else 1e-3  # rounding noise: compare absolutely
        self.found[section][key] = (float(np.abs(ours - theirs).max() / scale), tolerance)

    def trees(self, section: str, prefix: str, tree) -> None:
        stored = self.case.part(prefix)
        for name, (path, leaf) in self.case.named(tree).items():
            if name in stored:
                self.check(section, f"{prefix}/{name}", leaf, original.to_our_layout(path, stored[name]))

    def run(self) -> dict[str, dict[str, tuple[float, float]]]:
        case = self.case
        step = quick_jit(jax.value_and_grad(lambda p, s: case.forward(p, s, train=True), has_aux=True))
        (_, (outputs, predictions, losses, stats)), gradients = step(case.params, case.stats)
        self._outputs("", outputs, predictions, losses)
        self.trees("gradients", "grad", gradients)
        rates = {name: case.meta["lr"][owner] for name, owner in case.meta["owner"].items()}
        names = {path: name for name, (path, _) in case.named(case.params).items()}
        rate = jax.tree_util.tree_map_with_path(
            # What the original has not (an output map that is the identity) has no owner: it stays.
            lambda path, _: rates.get(names[tuple(entry.key for entry in path)], 0.0),
            case.params,
        )
        # torch's SGD with Nesterov momentum, first step: p - rate * (1 + momentum) * g.
        after = jax.tree.map(lambda p, g, r: p - r * (1 + MOMENTUM) * g, case.params, gradients, rate)
        self.trees("after", "after", after)
        self.trees("after", "after", stats)
        if "eval/features" not in case.arrays:
            return self.found
        evaluate = quick_jit(lambda p, s: case.forward(p, s, train=False)[1])
        outputs, predictions, losses, _ = evaluate(after, stats)
        top = outputs[case.geometry.hierarchy[-1]].tokens[:, 0]
        self.check("evaluation", "eval/features", top, case.arrays["eval/features"])
        self._losses("evaluation", "eval/loss", losses)
        return self.found

    def _losses(self, section, prefix, losses) -> None:
        for edge in self.case.edges:
            key = f"{prefix}/{original_config.GROUPS[edge.source]}/{edge.relation}"
            self.check(section, key, losses.edges[edge.source][str(edge)], self.case.arrays[key])

    def _outputs(self, prefix, outputs, predictions, losses) -> None:
        case = self.case
        for level in case.geometry.hierarchy:
            group = original_config.GROUPS[level]
            self.check("tokens", f"target_agg/{group}", outputs[level].tokens, case.arrays[f"target_agg/{group}"])
            if outputs[level].states is not None:
                self.check("tokens", f"target/{group}", outputs[level].states, case.arrays[f"target/{group}"])
        for edge in case.edges:
            key = f"prediction/{case.our_name(edge)}"
            stored = case.arrays[key].reshape(case.video.shape[0], -1, case.arrays[key].shape[-1])
            if edge.relation == "down" and edge.source in case.settings.model.causal_levels:
                stored = stored[:, :-1]
            elif edge.relation == "up" and outputs[edge.target].states is not None:
                stored = stored[:, 1:]
            self.check("predictions", key, predictions[str(edge)].prediction, stored)
        self._losses("losses", "loss", losses)


def main(folder: str | None = None) -> None:
    """Print the largest relative error per section and file, in float64 and float32."""
    files = sorted(pathlib.Path(folder).glob("ht_*.npz")) if folder else golden_files()
    print(f"{'case':44s} {'dtype':8s} " + " ".join(f"{section:>12s}" for section in SECTIONS))
    for path in files:
        for dtype in ("float64", "float32"):
            found = compare(path, dtype)
            worst = [max((error for error, _ in found[section].values()), default=0.0) for section in SECTIONS]
            over = report(found)
            print(f"{path.stem:44s} {dtype:8s} " + " ".join(f"{error:12.1e}" for error in worst), f" over: {len(over)}")
            for line in over if os.environ.get("VERBOSE") else ():
                print("  ", line)


if __name__ == "__main__":
    main(*sys.argv[1:])
