"""The gradient rule: a level's losses move its own parameters and, exactly, nothing else."""

import pytest

from hvt_jax.engine import isolation
from hvt_jax.hierarchy import HIERARCHIES
from tests import small

CASES = {
    "side": {"objective.side": True},
    "no_side": {"objective.side": False},
    "causal": {"causal": True, "objective.side": True},
    "contrastive": {
        "objective.distance": "contrastive",
        "objective.batch_candidates_weight": 0.5,
        "objective.patch_targets": "change",
    },
}
# Every hierarchy, and once each what could open another way through: the conv stem, other distances, scan and remat.
VARIANTS = {
    ("patch-frame", "side"): {"model.stem.kind": "conv", "model.stem.patch_size": 2},
    ("frame-clip", "side"): {"model.stem.kind": "conv", "model.stem.patch_size": 2},
    ("frame-clip", "causal"): {"objective.distance": "vicreg"},
    ("patch-frame-clip-sequence", "contrastive"): {"objective.batch_candidates_weight": 0.0},
    ("patch-frame-clip", "contrastive"): {"causal": True},
    ("patch-frame-clip", "no_side"): {"objective.distance": "cosine", "model.frame.dropout": 0.5},
    ("patch-frame-clip", "causal"): {"objective.distance": "cross_entropy", "model.frame.output_norm": "layer"},
    ("frame-clip-sequence", "no_side"): {"model.frame.remat": True, "model.clip.scan": True, "model.clip.depth": 2}
    | {"model.frame.groups_at_once": 1},
}


def _define(hierarchy: str, case: str, **overrides):
    fields = CASES[case] | VARIANTS.get((hierarchy, case), {}) | overrides
    return small.define(**{"model.hierarchy": hierarchy, "model.stem.patch_size": 8, **fields})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hierarchy", ["-".join(levels) for levels in HIERARCHIES])
def test_no_path_leads_from_a_loss_to_another_level(hierarchy, case):
    assert isolation.open_paths(_define(hierarchy, case), small.BATCH) == []


@pytest.mark.parametrize(
    ("hierarchy", "case"), [("patch-frame-clip-sequence", "contrastive"), ("frame-clip", "causal")]
)
def test_only_the_own_blocks_are_not_exactly_zero(hierarchy, case):
    table = isolation.audit(_define(hierarchy, case), small.BATCH)
    assert isolation.crossings(table) == []
    for level, row in table.items():
        assert row[level] > 1e-6
        assert row[f"{level}/predictors"] > 1e-6


def test_attached_targets_leak_between_encoded_levels_and_are_found():
    definition = _define("patch-frame-clip-sequence", "side", **{"objective.targets": "attached"})
    # Down targets leak into the level below, up targets into the level above, and side targets stay at home.
    # Patches were detached in the original, too; predictors are nobody's target.
    down = {("clip", "frame"), ("sequence", "clip")}
    expected = {("patch", "frame"), ("frame", "clip"), ("clip", "sequence")} | down
    assert set(isolation.open_paths(definition, small.BATCH)) == expected


def test_a_border_that_is_open_in_the_model_is_found(monkeypatch):
    monkeypatch.setattr("hvt_jax.model.pyramid.jax.lax.stop_gradient", lambda x: x)
    found = isolation.open_paths(_define("patch-frame-clip", "side"), small.BATCH)
    assert ("frame", "patch") in found and ("clip", "frame") in found


def test_nan_is_no_zero_and_zero_is_written_as_such():
    table = {
        "frame": {"frame": 1.5, "frame/predictors": 2.0, "clip": 0.0, "clip/predictors": float("nan")},
        "clip": {"frame": 1e-30, "frame/predictors": 0.0, "clip": 3.0, "clip/predictors": 4.0},
    }
    assert [(level, label) for level, label, _ in isolation.crossings(table)] == [
        ("frame", "clip/predictors"),
        ("clip", "frame"),
    ]
    header, *rows = isolation.format_table(table).splitlines()
    assert header.split() == ["frame", "frame/predictors", "clip", "clip/predictors"]
    assert rows[0].split() == ["frame", "losses", "1.500e+00", "2.000e+00", "0", "nan"]
    assert rows[1].split() == ["clip", "losses", "1.000e-30", "0", "3.000e+00", "4.000e+00"]


@pytest.mark.parametrize("targets", ["stopped", "attached"])
def test_what_the_command_prints(targets):
    definition = small.define(**{"model.hierarchy": "frame-clip", "objective.targets": targets})
    text, count = isolation.examine(definition, small.BATCH)
    lines = text.splitlines()
    assert lines[1].startswith("frame losses") and lines[2].startswith("clip losses")
    if targets == "stopped":
        assert count == 0 and lines[-1] == "no leak: no path of the program leads between levels, whatever the input"
        assert lines[1].split()[-2:] == ["0", "0"] and lines[2].split()[2:4] == ["0", "0"]
    else:
        assert count == 2 and lines[-1] == "2 leaks"
        assert {line.split(" (")[0] for line in lines if line.startswith("leak: ")} == {
            "leak: the losses of frame move clip",
            "leak: the losses of clip move frame",
        }


def test_a_path_that_carries_zeros_is_named_as_open(monkeypatch):
    """The numbers of one batch prove nothing of another: the program does."""
    monkeypatch.setattr(isolation, "open_paths", lambda *_: [("frame", "clip")])
    monkeypatch.setattr(isolation, "audit", lambda *_: {"frame": {"frame": 1.0, "clip": 0.0}})
    text, count = isolation.examine(small.define(**{"model.hierarchy": "frame-clip"}), small.BATCH)
    assert count == 1
    assert text.endswith("open: a path of the program leads from the losses of frame to clip\n1 leaks")
