"""Parity with the PyTorch twin on combinations that no golden file holds, in double precision.

The twin (`benchmarks/torch_twin.py`) reproduces every golden file; here it makes new ones in memory, with
random parameters, and the comparison of the goldens runs on them. What it cannot settle is what the twin
itself guesses (its docstring and those of `objectives`): which targets VICReg takes as regularised.
"""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests import parity

torch = pytest.importorskip("torch")
twin_lib = pytest.importorskip("benchmarks.torch_twin")

GROUPS = ("backbone", "space", "time", "clip")
LOSS_PARAMS = {
    "CE": {"pred_temp": 0.7, "tgt_temp": 0.4, "eps": 1e-6},
    "CS": {"mult": 1.5},
    "VICREG": {"eps": 1e-4, "sim_coeff": 5, "std_coeff": 7, "cov_coeff": 2},
}


@dataclasses.dataclass(frozen=True)
class Combination:
    """One config of the original; `causal` and `hidden` by group, `clips` of `frames` frames in all."""

    groups: tuple[str, ...]
    loss: str
    frames: int
    clips: int = 1
    causal: tuple[str, ...] = ()
    conv: bool = False
    norm: bool = True
    stem_norm: str = "skip"
    side: bool = False
    hidden: str | None = None
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    widths: tuple[int, int, int, int] = (12, 8, 10, 14)
    heads: int = 2
    evaluate: bool = False


COMBINATIONS = {
    "four_levels_all_causal": Combination(
        GROUPS, "CS", 6, clips=3, causal=("space", "time", "clip"), hidden="[10]", stem_norm="create", evaluate=True
    ),
    "four_levels_side_weights": Combination(
        GROUPS, "CE", 6, clips=2, side=True, conv=True, weights={"time_side": 0.25, "clip_down": 3.0, "space_up": 0.5}
    ),
    "side_and_causal_on_top": Combination(
        ("space", "time", "clip"), "MSE", 6, clips=2, causal=("clip",), side=True, hidden="[9, 7]"
    ),
    "vicreg_batched_no_norm": Combination(
        ("space", "time", "clip"), "VICReg", 6, clips=3, norm=False, hidden="[10]", widths=(8, 8, 8, 14)
    ),
    "vicreg_four_levels_causal_below": Combination(GROUPS, "VICReg", 4, clips=2, causal=("space",), evaluate=True),
    "causal_space_created_norm_equal_widths": Combination(
        ("backbone", "space", "time"), "MSE", 3, causal=("space", "time"), stem_norm="create", widths=(8, 8, 8, 8)
    ),
    "one_head_as_wide_as_its_level": Combination(("space", "time"), "CE", 3, widths=(8, 8, 8, 8), heads=1),
}


def original_config(case: Combination) -> dict:
    """Return the original's merged config of a combination, as far as anything reads it."""
    height, width, size = (16, 24, 2) if case.conv else (16, 24, 8)
    counts = {
        "time": (case.frames, case.clips),
        "clip": (case.clips, 1),
        "space": (None, size),
        "backbone": (None,) * 2,
    }
    arch = {"output_batchnorm": case.norm, "groups": str(list(case.groups))}
    for index, group in enumerate(GROUPS):
        arch[f"architecture_{group}"] = {
            "dim": case.widths[index],
            # Two codes share a width in three parts, two of them for the member.
            "nD": 3,
            "input_size": counts[group][0],
            "size_ratio": counts[group][1],
            "layers": 1,
            "heads": case.heads,
            "mlp_dim": 11,
            "head_dim": 8 if case.heads == 1 else 6,
            "dropout": 0.0,
            "causal_mask": int(group in case.causal),
            "pred_h_dim": case.hidden,
        }
    arch["architecture_backbone"] |= {"use_cnn_stem": case.conv, "in_channels": 3, "out_channels": 5}
    edges = [f"{group}_{relation}" for group in GROUPS for relation in ("up", "down", "side")]
    train = {
        "dataset": "ucf101",
        "loss_fn": case.loss,
        "loss_params": LOSS_PARAMS,
        "loss_weights": {edge: case.weights.get(edge, 1) for edge in edges},
        "use_temporal_prediction": case.side,
        "std_divisor": 3,
        "optimizer": {"lr": 0.1, "momentum": parity.MOMENTUM},
        "predictor": {"pred_multiplier": 3},
    }
    sampler = {"height": height, "width": width, "length": case.frames}
    return {"arch": arch, "train": train, "data": {"ucf101": {"num_classes": 3, "sampler": sampler}}}


def golden_from_twin(case: Combination, seed: int) -> dict[str, np.ndarray]:
    """Run the twin for a step and return its numbers under the goldens' keys, in float64."""
    meta = {
        "config": original_config(case),
        "groups": list(case.groups),
        "fixes": {"nostem_norm": case.stem_norm},
        "noise_f32_abs": {},
        "lr": {f"{group}_{part}": rate for group in GROUPS for part, rate in (("mod", 0.1), ("pred", 0.3))},
    }
    torch.manual_seed(seed)
    config = twin_lib.TwinConfig.from_golden(meta)
    twin = twin_lib.Twin(config).double()
    with torch.no_grad():
        for parameter in twin.parameters():  # so that no bias is 0 and no scale 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    twin = twin.float().double()  # the importer fills float32 parameters
    if case.heads == 1:
        _drop_output_maps(twin)
    arrays = {f"param/{name}": value.numpy().copy() for name, value in twin.state_dict().items()}
    random = np.random.default_rng(seed)
    shape = (3, config.frames, config.height, config.width, 3)
    arrays["video_uint8"] = random.integers(0, 256, shape, dtype=np.uint8)
    drawn = twin_lib.draw_tokens(config, seed)
    arrays |= {f"tokens/{name}": value for name, value in drawn.items()}
    video = torch.from_numpy(arrays["video_uint8"]).double() / 255
    tokens = {name: torch.from_numpy(value).long() for name, value in drawn.items()}
    arrays |= _numbers("", *twin.backward(video, tokens))
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.grad is not None}
    arrays |= {f"grad/{name}": value.numpy().copy() for name, value in gradients.items()}
    largest = max(float(value.abs().max()) for value in gradients.values())
    meta["mathematically_zero_grad"] = [k for k, v in gradients.items() if float(v.abs().max()) < 1e-9 * largest]
    meta["owner"] = {name: twin.owner(name) for name, _ in twin.named_parameters() if twin.owner(name)}
    if case.evaluate:
        twin.optimizer().step()
        twin.eval()
        with torch.no_grad():
            outputs = twin(video, tokens)
            numbers = _numbers("eval/", outputs, twin.losses(outputs, tokens))
        arrays |= {key: value for key, value in numbers.items() if key.startswith("eval/loss")}
        arrays["eval/features"] = outputs.aggregates[case.groups[-1]].numpy()
    if case.heads == 1:
        arrays = {key: value for key, value in arrays.items() if ".to_out." not in key}
    return arrays | {"meta_json": np.array(json.dumps(meta))}


def _drop_output_maps(twin) -> None:
    # The original has none there; the twin's identity is the same function.
    for name, parameter in twin.named_parameters():
        if ".to_out." in name:
            with torch.no_grad():
                parameter.copy_(torch.eye(len(parameter)) if parameter.ndim == 2 else torch.zeros(len(parameter)))


def _numbers(prefix: str, outputs, losses) -> dict[str, np.ndarray]:
    parts = {
        "target": outputs.targets,
        "target_agg": outputs.aggregates,
        "prediction": outputs.predictions,
        "loss": losses,
    }
    return {
        f"{prefix}{part}/{name}": value.detach().numpy()
        for part, values in parts.items()
        for name, value in values.items()
    }


@pytest.mark.parametrize("name", COMBINATIONS)
def test_our_step_is_the_twins(name):
    case = COMBINATIONS[name]
    seed = list(COMBINATIONS).index(name)
    found = parity.compare(golden_from_twin(case, seed), "float64")
    if os.environ.get("VERBOSE"):
        print(name, {part: max((e for e, _ in v.values()), default=0.0) for part, v in found.items()})
    assert found["tokens"] and found["predictions"] and found["losses"] and found["gradients"]
    errors = [error for section in found.values() for error, _ in section.values()]
    assert max(errors) < 1e-10, parity.report(found)  # nothing was stored, so nothing was rounded
    assert not parity.report(found)
