"""The gradient rule: a level's losses move its own parameters and, exactly, nothing else."""

import subprocess
import sys

import pytest

from hvt_jax.engine import isolation
from hvt_jax.hierarchy import HIERARCHIES
from tests import small

CASES = {
    "side": {"objective.side": True},
    "no_side": {"objective.side": False},
    "causal": {"causal": True, "objective.side": True},
}
# Every hierarchy, and once each what could open another way through: the conv stem, other distances, scan and remat.
VARIANTS = {
    ("patch-frame", "side"): {"model.stem.kind": "conv", "model.stem.patch_size": 2},
    ("frame-clip", "side"): {"model.stem.kind": "conv", "model.stem.patch_size": 2},
    ("frame-clip", "causal"): {"objective.distance": "vicreg"},
    ("patch-frame-clip", "no_side"): {"objective.distance": "cosine", "model.frame.dropout": 0.5},
    ("patch-frame-clip", "causal"): {"objective.distance": "cross_entropy", "model.frame.output_norm": "layer"},
    ("frame-clip-sequence", "no_side"): {"model.frame.remat": True, "model.clip.scan": True, "model.clip.depth": 2},
}


def _table(hierarchy: str, case: str, **overrides) -> isolation.Table:
    fields = CASES[case] | VARIANTS.get((hierarchy, case), {}) | overrides
    fields = {"model.stem.patch_size": 8, **fields}
    return isolation.audit(small.define(**{"model.hierarchy": hierarchy}, **fields), small.BATCH)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hierarchy", ["-".join(levels) for levels in HIERARCHIES])
def test_only_the_own_blocks_are_not_exactly_zero(hierarchy, case):
    table = _table(hierarchy, case)
    assert isolation.leaks(table) == []
    for level, row in table.items():
        assert row[level] > 1e-6
        assert row[f"{level}/predictors"] > 1e-6


def test_attached_targets_leak_between_encoded_levels_and_are_found():
    table = _table("patch-frame-clip-sequence", "side", **{"objective.targets": "attached"})
    found = {(level, label) for level, label, _ in isolation.leaks(table)}
    # Down targets leak into the level below, up targets into the level above, and side targets stay at home.
    # Patches were detached in the original, too; predictors are nobody's target.
    down = {("clip", "frame"), ("sequence", "clip")}
    assert found == {("patch", "frame"), ("frame", "clip"), ("clip", "sequence")} | down
    assert all(norm > 1e-6 for _, _, norm in isolation.leaks(table))


def test_a_border_that_is_open_in_the_model_is_found(monkeypatch):
    monkeypatch.setattr("hvt_jax.model.pyramid.jax.lax.stop_gradient", lambda x: x)
    found = {(level, label) for level, label, _ in isolation.leaks(_table("patch-frame-clip", "side"))}
    assert ("frame", "patch") in found and ("clip", "frame") in found


def test_nan_is_a_leak_and_zero_is_written_as_such():
    table = {
        "frame": {"frame": 1.5, "frame/predictors": 2.0, "clip": 0.0, "clip/predictors": float("nan")},
        "clip": {"frame": 1e-30, "frame/predictors": 0.0, "clip": 3.0, "clip/predictors": 4.0},
    }
    assert [(level, label) for level, label, _ in isolation.leaks(table)] == [
        ("frame", "clip/predictors"),
        ("clip", "frame"),
    ]
    header, *rows = isolation.format_table(table).splitlines()
    assert header.split() == ["frame", "frame/predictors", "clip", "clip/predictors"]
    assert rows[0].split() == ["frame", "losses", "1.500e+00", "2.000e+00", "0", "nan"]
    assert rows[1].split() == ["clip", "losses", "1.000e-30", "0", "3.000e+00", "4.000e+00"]


def test_command():
    fields = {"data.num_frames": 2, "data.height": 16, "data.width": 16, "model.hierarchy": "frame-clip"}
    fields |= {"model.frame.depth": 1, "model.clip.depth": 1}
    program = [sys.executable, "-m", "hvt_jax.audit", "--config=configs/default.py"]
    program += [f"--config.{name}={value}" for name, value in fields.items()]
    started = {
        targets: subprocess.Popen(
            [*program, f"--config.objective.targets={targets}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for targets in ("stopped", "attached")
    }
    found = {}
    for targets, process in started.items():
        out, error = process.communicate(timeout=240)
        found[targets] = process.returncode, out.splitlines()
        assert len(found[targets][1]) > 3, error
    code, lines = found["stopped"]
    assert code == 0 and lines[-1].startswith("no leak")
    assert lines[1].startswith("frame losses") and lines[1].split()[-2:] == ["0", "0"]
    assert lines[2].startswith("clip losses") and lines[2].split()[2:4] == ["0", "0"]
    code, lines = found["attached"]
    assert code == 1 and lines[-1] == "2 leaks"
    assert {line.split(" (")[0] for line in lines if line.startswith("leak: ")} == {
        "leak: the losses of frame move clip",
        "leak: the losses of clip move frame",
    }
