"""Check the PyTorch twin against reference numbers.

`python -m benchmarks.check_torch_twin --goldens DIR` runs every `ht_*.npz` of DIR in float64 and
prints, per file and kind of number, the largest error relative to the array's largest magnitude
(1e-7 is storage rounding), of the twin as it is and trimmed. Exit code 1 if any
exceeds the tolerance, 2 if DIR holds no file.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_twin import Outputs, Twin, TwinConfig

TOLERANCE = 1e-5
KINDS = ("target", "target_agg", "prediction", "loss", "grad", "after", "later", "eval")

Errors = dict[str, tuple[float, str]]  # kind -> (largest error, the key that has it)


class Reference:
    """One stored step: its arrays, its metadata and the largest error met so far per kind."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as stored:
            self.arrays = {key: stored[key] for key in stored.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta_json"]))
        self.errors: Errors = dict.fromkeys(KINDS, (0.0, ""))

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays whose key starts with `prefix/`, without it."""
        start = len(prefix) + 1
        return {k[start:]: v for k, v in self.arrays.items() if k.startswith(prefix + "/")}

    def note(self, kind: str, key: str, error: float) -> None:
        """Keep the error if it is the largest of its kind; NaN counts as infinite."""
        error = math.inf if math.isnan(error) else error
        if error > self.errors[kind][0]:
            self.errors[kind] = (error, key)

    def compare(self, kind: str, key: str, value: torch.Tensor | None, scale: float | None = None) -> None:
        """Compare with the stored array `key`; a missing value or another shape is infinite."""
        wanted = self.arrays[key].astype(np.float64)
        if value is None or tuple(value.shape) != wanted.shape:
            self.note(kind, key, math.inf)
            return
        difference = np.abs(value.detach().numpy() - wanted).max()
        self.note(kind, key, float(difference / (scale or np.abs(wanted).max() or 1.0)))


def build(reference: Reference, trimmed: bool) -> Twin:
    """Build the twin of a stored step, in float64 with the stored parameters."""
    twin = Twin(TwinConfig.from_golden(reference.meta), trimmed=trimmed).double()
    state = {k: torch.from_numpy(v).double() for k, v in reference.under("param").items()}
    mismatch = twin.load_state_dict(state, strict=False)
    # The counter of batches is not stored; nothing reads it.
    missing = [k for k in mismatch.missing_keys if not k.endswith("num_batches_tracked")]
    if missing or mismatch.unexpected_keys:
        raise ValueError(f"missing {missing}, unexpected {mismatch.unexpected_keys}")
    owners = {n: twin.owner(n) for n, _ in twin.named_parameters() if twin.owner(n)}
    if owners != reference.meta["owner"]:
        raise ValueError(f"owners differ: {set(owners.items()) ^ set(reference.meta['owner'].items())}")
    return twin


def compare_forward(reference: Reference, outputs: Outputs, losses: dict[str, torch.Tensor]) -> None:
    """Compare states, aggregates, predictions and losses."""
    for kind, values in (
        ("target", outputs.targets),
        ("target_agg", outputs.aggregates),
        ("prediction", outputs.predictions),
        ("loss", losses),
    ):
        for key in values.keys() | reference.under(kind).keys():
            if f"{kind}/{key}" in reference.arrays:
                reference.compare(kind, f"{kind}/{key}", values.get(key))
            else:
                reference.note(kind, f"{kind}/{key} is not stored", math.inf)


def compare_gradients(reference: Reference, twin: Twin) -> None:
    """Compare gradients; those that are zero by construction against the step's largest one."""
    stored = reference.under("grad")
    largest = float(max(np.abs(v).max() for v in stored.values()))
    zero = set(reference.meta["mathematically_zero_grad"])
    for name, parameter in twin.named_parameters():
        if name in stored:
            scale = largest if name in zero else None
            reference.compare("grad", f"grad/{name}", parameter.grad, scale)
        elif parameter.grad is not None:
            reference.note("grad", f"grad/{name} should not exist", math.inf)


def compare_parameters(reference: Reference, twin: Twin) -> None:
    """Compare parameters and statistics after the step; sum and norm of arrays not stored."""
    state = twin.state_dict()
    for name in reference.under("after"):
        reference.compare("after", f"after/{name}", state.get(name))
    for key, summary in reference.meta["omitted_after"].items():
        value = state[key.removeprefix("after/")]
        norm = float(value.norm())
        reference.note("after", key + " l2", abs(norm - summary["l2"]) / summary["l2"])
        spread = summary["l2"] * math.sqrt(value.numel())  # the sum itself may be near zero
        reference.note("after", key + " sum", abs(float(value.sum()) - summary["sum"]) / spread)


@torch.no_grad()
def compare_evaluation(reference: Reference, twin: Twin, video: torch.Tensor, tokens: dict[str, torch.Tensor]) -> None:
    """Compare features, head and losses in evaluation mode, after the step."""
    twin.eval()
    outputs = twin(video, tokens)
    losses = twin.losses(outputs, tokens)
    twin.train()
    features = outputs.aggregates[twin.config.hierarchy[-1]]
    values = {"features": features, "log_probs": F.log_softmax(twin.mlp_head(features), dim=-1)}
    values |= {f"loss/{key}": loss for key, loss in losses.items()}
    for key in reference.under("eval"):
        reference.compare("eval", f"eval/{key}", values.get(key))


def check(path: pathlib.Path, trimmed: bool = False) -> Errors:
    """Replay one stored file and return its largest error per kind."""
    reference = Reference(path)
    twin = build(reference, trimmed)
    video = torch.from_numpy(reference.arrays["video_uint8"]).double() / 255
    tokens = {k: torch.from_numpy(v).long() for k, v in reference.under("tokens").items()}
    outputs, losses = twin.backward(video, tokens)
    compare_forward(reference, outputs, losses)
    compare_gradients(reference, twin)
    twin.optimizer().step()
    compare_parameters(reference, twin)
    compare_evaluation(reference, twin, video, tokens)
    for step in (2, 3):
        stored = reference.under(f"step{step}/loss")
        losses = twin.train_step(video, tokens) if stored else {}
        for key in stored:
            reference.compare("later", f"step{step}/loss/{key}", losses.get(key))
    return reference.errors


def main(arguments: list[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goldens", type=pathlib.Path, required=True, help="folder of ht_*.npz")
    folder = parser.parse_args(arguments).goldens
    paths = sorted(folder.glob("ht_*.npz"))
    if not paths:
        print(f"no ht_*.npz in {folder}: name the folder of the reference numbers", file=sys.stderr)
        return 2
    names = {(path, trimmed): path.stem + ", trimmed" * trimmed for path in paths for trimmed in (False, True)}
    wide = max(map(len, names.values()))
    print(" " * wide, *(f"{kind:>10}" for kind in KINDS))
    failures = []
    for key, name in names.items():
        errors = check(*key)
        print(f"{name:{wide}}", *(f"{errors[kind][0]:10.1e}" for kind in KINDS))
        failures += [f"{name}: {number}: {error:.1e}" for error, number in errors.values() if error > TOLERANCE]
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
