"""Parity with the original, stage by stage, for every golden file of a training step (and those in $HVT_GOLDENS).

float64 proves the arithmetic: everything to the storage rounding of the files. float32 shows what a user gets:
losses to 1e-5, everything else within ten times the original's own float32 noise. What is not compared stands in
`parity.NOT_COMPARED` with its reason, and nothing else is left out. Bounds are wider for one kind of number, in
float32 and with the conv stem only: what follows from a ReLU that decides by the last bit, see
`parity.follows_from_a_flip`.
"""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.model.level import LevelOutput
from tests import golden_files, parity

LINEAR = golden_files.GOLDENS / "ht_01_st_noncausal_mse_bn_nostem.npz"
CONV = golden_files.GOLDENS / "ht_08_bs_image_mse_bn_stem.npz"
CAUSAL = golden_files.GOLDENS / "ht_13_stc_timecausal_cs_bn_nostem.npz"


@golden_files.each("step")
@parity.BOTH
def test_every_stored_number(path, dtype):
    found = parity.compare(path, dtype)
    assert parity.unaccounted(path, found, dtype) == []
    assert not parity.report(found)


@golden_files.each("step")
def test_every_parameter_of_the_original_is_imported(path):
    case = parity.replay(path, "float64").case
    # Codes of edges that our rule does not have would show up here.
    assert set(case.unused) <= parity.HEAD


def test_every_number_that_is_off_is_reported():
    arrays, meta = parity.read(LINEAR)
    named = tuple(parity.NOT_COMPARED | parity.NOT_COMPARED_IN_DOUBLE)
    kept = {key for key, value in arrays.items() if key.startswith(named) or np.abs(value).max() < 1e-6}
    off = {key: value if key in kept else value * 1.001 for key, value in arrays.items()}
    reported = {line.partition(": ")[0] for line in parity.report(parity.compare(off, "float64", like=LINEAR))}
    # Where the gradient is mathematically zero, or of one level, a thousandth of the rounding noise is nothing.
    assert reported == off.keys() - kept
    kinds = ("level_grad/space", "level_grad/time", "step3/loss", "token_variance", "eval/log_probs", "after/mlp_head")
    assert all(any(key.startswith(kind) for key in reported) for kind in kinds)
    assert len(kept - {key for key in kept if key.startswith(named)}) < 20


def test_a_prediction_without_a_target_is_compared_as_well():
    arrays, _ = parity.read(CAUSAL)
    for key, position in {"prediction/time_d": -1, "prediction/space_u": 0}.items():
        arrays[key] = arrays[key].copy()
        arrays[key][:, position] += 0.01
    lines = parity.report(parity.compare(arrays, "float64", like=CAUSAL))
    assert [line.partition(":")[0] for line in lines] == ["prediction/space_u", "prediction/time_d"]


def test_the_original_reorders_the_states_of_clips_and_of_no_other_level():
    """Its frames were in order: `(b c) f -> b (f c)` stood in the module of the clip level alone."""
    case = parity.replay(CAUSAL, "float64").case
    clips, frames = case.hierarchy.num_clips, case.hierarchy.frames_per_clip
    assert clips > 1 and frames > 1
    numbers = jnp.arange(clips * frames, dtype=jnp.float32)[None, :, None]
    output = lambda groups: LevelOutput(jnp.zeros((1, groups, 1)), jnp.zeros((1, groups, 1)), numbers)  # noqa: E731
    outputs = {"frame": output(clips), "clip": output(clips), "sequence": output(1)}
    found = {level: np.ravel(out.states) for level, out in case.reorder_states(outputs).items()}
    assert found["frame"].tolist() == found["sequence"].tolist() == list(range(clips * frames))
    by_clip = np.arange(clips * frames).reshape(clips, frames)
    np.testing.assert_array_equal(found["clip"], by_clip.T.ravel())


def test_a_file_with_less_in_it_is_a_case_too_and_one_with_more_is_named():
    arrays, _ = parity.read(CONV)
    less = {key: value for key, value in arrays.items() if not key.startswith(("after/", "eval/", "f32/"))}
    found = parity.compare(less, "float64", like=CONV)
    assert not found["after"] and not found["evaluation"] and not parity.report(found)
    assert parity.unaccounted(less, found, "float64") == []
    left = parity.unaccounted(less | {"grad/stranger": np.zeros(2), "more": np.zeros(2)}, found, "float64")
    assert left == ["grad/stranger", "more"]


def test_only_what_follows_from_a_flipped_relu_has_a_wider_bound_and_only_after_the_conv_stem():
    wider = ["grad/backbone.net.0.conv_t.weight", "level_grad/space/backbone.net.2.bn.bias", "eval/loss/space/up"]
    wider += [
        "after/backbone.net.3.bn_s.weight",
        "omitted_after/backbone.net.0.conv_s.weight/l2",
        "step2/loss/time/down",
    ]
    usual = ["loss/space/up", "target_agg/backbone", "grad/to_patch_embedding.1.weight", "token_variance/space"]
    usual += ["after/backbone.net.0.bn_s.running_mean", "after/linear_proj.space.weight", "level_grad/backbone/x"]
    conv, linear = (parity.Comparison(parity.replay(path, "float64")) for path in (CONV, LINEAR))
    assert all(conv.single_bound(key, 0.0) >= parity.AFTER_A_FLIP for key in wider)
    assert all(conv.single_bound(key, 0.0) <= parity.SINGLE_LOSS for key in usual)
    assert all(linear.single_bound(key, 0.0) <= parity.SINGLE_LOSS for key in wider + usual)


def test_the_command_prints_a_line_per_file_and_precision(tmp_path, capsys, monkeypatch):
    shutil.copy(CONV, tmp_path / "any_name.npz")
    shutil.copy(golden_files.GOLDENS / "knn.npz", tmp_path)
    found = {section: {} for section in parity.SECTIONS} | {"losses": {"loss/space/down": (3e-4, 1e-5)}}
    monkeypatch.setattr(parity, "compare", lambda *_: found)
    monkeypatch.setattr(parity, "unaccounted", lambda *_: ["loss/backbone/up"])
    parity.main(str(tmp_path))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["case", "dtype", *parity.SECTIONS]
    assert [line.split()[:5] for line in lines] == [
        ["any_name", t, "-", "-", "3.0e-04"] for t in ("float64", "float32")
    ]
    assert all(line.endswith("over: 1  unaccounted: 1") for line in lines)
    (tmp_path / "any_name.npz").unlink()
    with pytest.raises(SystemExit, match="no training step"):
        parity.main(str(tmp_path))
