"""What one run hands over to the next: the checkpoint asked for, once; a line for every array; clear refusals."""

import json

import jax
import numpy as np
import pytest

from hvt_jax.engine import steps
from hvt_jax.interop import hand_over, safetensors_io
from hvt_jax.run import seals, trained
from hvt_jax.settings import SettingsError
from tests import runs, small


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    return runs.finished_run(tmp_path_factory, tmp_path_factory.mktemp("hand_over"))


def test_the_best_checkpoint_is_handed_over_and_never_again(ended, tmp_path):
    checkpoints = str(ended / "checkpoints")
    known = [step for step in seals.steps_in(checkpoints) if seals.distrust(checkpoints, step) is None]
    for step in known:
        tests = seals.read_manifest(checkpoints, step)["tests"]
        seals.add_metrics(checkpoints, step, {"linear/clip/motion/top1": 90.0 if step == known[0] else 10.0}, tests)
    for which, step in (("best", known[0]), ("last", known[-1])):
        path = hand_over.hand_over(str(ended), which, str(tmp_path / which))
        model = trained.open_run(ended, str(step))
        source = hand_over.read_source(str(tmp_path / which))
        assert source == {"source": "run", "checkpoint": which, "step": step, "digest": model.digest}
        found = dict(zip(("params", "stats"), safetensors_io.load_variables(path), strict=True))
        jax.tree.map(np.testing.assert_array_equal, found, {"params": model.params, "stats": model.stats})
    before = (tmp_path / "best" / "initial" / "model.safetensors").stat().st_mtime_ns
    assert hand_over.hand_over(str(tmp_path / "gone"), "last", str(tmp_path / "best"))  # the run is not even looked at
    assert (tmp_path / "best" / "initial" / "model.safetensors").stat().st_mtime_ns == before


def _expect(how, old=None, **fields):
    before = small.define(**{"model.hierarchy": "frame-clip", **(old or {})})
    after = small.define(**{"model.hierarchy": "frame-clip-sequence", "data.num_frames": 8, **fields})
    return hand_over.expect(before, after, how, "short"), after


@pytest.mark.parametrize("how", ["rows", "interpolate"])
def test_every_array_has_a_line_that_says_what_became_of_it(how):
    """From a clip of 4 to two of 4, frames of another size; a level is new."""
    expected, after = _expect(how, **{"data.height": 24, "model.num_clips": 4})
    lines = {line.split()[1]: line.split() for line in expected.arrays}
    params, stats = jax.eval_shape(lambda: steps.initial_variables(after, 0))
    assert len(lines) == len(jax.tree.leaves(params)) + len(jax.tree.leaves(stats))
    what = {name: line[0] for name, line in lines.items()}
    assert {kind for name, kind in what.items() if name.startswith("levels/sequence/")} == {"new"}
    assert what["levels/clip/transformer/layers/layer_00/mlp_hidden/kernel"] == "copied"
    frames = "levels/frame/positions/table"
    assert lines["levels/clip/positions/table"] == [
        *("grown", "levels/clip/positions/table", "float32[5,10]", "->", "float32[3,10]")
    ]
    assert what[frames] == ("new" if how == "rows" else "grown")
    header, titles, *rows = expected.table
    assert header == "starting from stage short; arrays" and titles.split() == ["copied", "grown", "fresh", "unused"]
    counts = {row.split()[0]: [int(count) for count in row.split()[1:]] for row in rows if ":" not in row}
    for column, kind in enumerate(("copied", "grown", "new")):
        of_frame = [n for n in what if n.startswith("levels/frame/") and "/predictors/" not in n and what[n] == kind]
        assert counts["frame"][column] == len(of_frame)


def test_what_no_shape_shows_is_refused_beforehand():
    with pytest.raises(SettingsError, match=r"config.model.frame.norm_epsilon = 1e-06, but stage short, whose weights"):
        _expect("rows", **{"model.frame.norm_epsilon": 1e-6})
    # What the stage before has no level for cannot contradict.
    expected, _ = _expect("rows", old={"model.sequence.norm_epsilon": 1e-6})
    assert expected.arrays
    widths = {f"model.{level}.width": 14 for level in ("patch", "frame", "clip")}
    widths |= {f"model.{level}.mlp_width": 10 for level in ("frame", "clip")}
    widths |= {f"model.{level}.predictor_hidden": (9,) for level in ("frame", "clip")}
    with pytest.raises(SettingsError, match=r"none of the \d+ arrays of stage short has a place and shape"):
        _expect("rows", old=widths)


def test_its_folder_is_told_apart_from_a_run(ended, tmp_path):
    path = hand_over.hand_over(str(ended), "last", str(tmp_path))
    config = json.loads((tmp_path / "initial" / "config.json").read_text())
    assert config == json.loads((ended / "config.json").read_text()) and path.endswith("initial/model.safetensors")
