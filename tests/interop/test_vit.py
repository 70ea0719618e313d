"""Import of image models: timm's own numbers, stage by stage; every array finds its place or is named."""

import functools

import jax
import numpy as np
import pytest

from hvt_jax.interop import safetensors_io, vit, vit_reference
from hvt_jax.run.seals import CheckpointError
from tests import golden_files

# timm 1.0.31 with random weights of our own (no licence but ours): VisionTransformer(img_size=(24, 32), patch_size=8,
# embed_dim=24, depth=3, num_heads=3), in double precision. To renew: draw weights, save `state/<name>`, `image`, the
# tokens after patch_embed, _pos_embed, every block and norm, and resample_abs_pos_embed of the positions.
GOLDENS = golden_files.of_kind("vit")


@pytest.fixture(scope="module", params=GOLDENS, ids=golden_files.label)
def golden(request):
    with np.load(request.param) as arrays:
        return dict(arrays)


def state_of(golden):
    return {name.removeprefix("state/"): array for name, array in golden.items() if name.startswith("state/")}


def save(path, state):
    np.savez(path, **state)
    return str(path)


@pytest.fixture
def weights(golden, tmp_path):
    return save(tmp_path / "vit.npz", state_of(golden))


def options(golden):
    height, width, patch, heads = golden["vit_image_size"]
    head_width = golden["state/cls_token"].shape[-1] // heads
    return {"head_width": int(head_width), "grid": (int(height // patch), int(width // patch))}


def imported_model(golden, weights, out, **changes):
    """Import, and return what was said and the model that has the weights of the file that was written."""
    done = vit.import_weights(weights, str(out), **options(golden) | changes)
    params, stats = safetensors_io.load_variables(out / "model.safetensors")
    assert stats == {}
    settings = vit.frame_settings(state_of(golden), options(golden)["head_width"], "")
    frames = {name: done.overrides[f"data.{name}"] for name in ("height", "width")}
    return done, vit.build_model(settings, params, "", **frames)


def test_every_stage_gives_the_numbers_of_timm(golden, weights, tmp_path):
    done, model = imported_model(golden, weights, tmp_path)
    images = golden["image"].transpose(0, 2, 3, 1)
    ours = jax.jit(functools.partial(vit.stages, model))(images.astype(np.float32))
    references = dict(vit_reference.stages(state_of(golden), images, int(golden["vit_image_size"][3])))
    names = [name.removeprefix("stage/") for name in golden if name.startswith("stage/")]
    assert len(names) == 6 and list(references) == names and [*done.differences] == [*names, "frame token"]
    for name in names:
        expected = golden[f"stage/{name}"]
        np.testing.assert_allclose(references[name], expected, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(ours[name], expected, atol=5e-6 * np.abs(expected).max())
    np.testing.assert_allclose(ours["frame token"], golden["stage/norm"][:, 0], atol=1e-5)
    assert max(done.differences.values()) < 1e-5 and done.unused == ["head.bias", "head.weight"]


@pytest.mark.parametrize("rows_columns", ["5x6", "2x3"])
def test_positions_are_resampled_as_timm_does(golden, rows_columns):
    new = tuple(map(int, rows_columns.split("x")))
    found = vit.fit_positions(golden["state/pos_embed"], options(golden)["grid"], new)
    np.testing.assert_allclose(found, golden[f"resized_positions_{rows_columns}"], atol=1e-5)


def test_another_size_of_frames(golden, weights, tmp_path):
    done, model = imported_model(golden, weights, tmp_path, size=(40, 48))
    assert done.resized == ((3, 4), (5, 6)) and done.overrides["data.height"] == 40
    table = golden["resized_positions_5x6"][0]
    np.testing.assert_allclose(model.levels["frame"].positions.table[...], table, atol=1e-5)


def test_layer_scale_goes_into_the_map_before_it(golden, tmp_path):
    state, rng = state_of(golden), np.random.default_rng(0)
    for number in range(3):
        state |= {f"blocks.{number}.ls{part}.gamma": rng.normal(size=24).astype(np.float32) for part in (1, 2)}
    done = vit.import_weights(save(tmp_path / "v.npz", state), str(tmp_path / "out"), **options(golden))
    plain = vit.import_weights(save(tmp_path / "w.npz", state_of(golden)), str(tmp_path / "other"), **options(golden))
    assert max(done.differences.values()) < 1e-5 and done.values == plain.values


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_prefixes_of_wrappers(golden, prefix):
    state = {f"{prefix}{name}": array for name, array in state_of(golden).items()} | {"module.head.mlp": np.zeros(1)}
    bare = vit.without_prefixes(state)
    assert state_of(golden).keys() <= bare.keys()


def test_what_has_no_place_is_refused(golden, tmp_path):
    state = state_of(golden)
    cases = {
        "'dist_token' has no place": state | {"dist_token": np.zeros((1, 1, 24))},
        r"'blocks.0.attn.q_norm.weight' has no place": state | {"blocks.0.attn.q_norm.weight": np.zeros(8)},
        "has no 'cls_token'": {name: array for name, array in state.items() if name != "cls_token"},
        "not in the checkpoint": {name: array for name, array in state.items() if name != "blocks.1.mlp.fc2.bias"},
        "only square patches": state | {"patch_embed.proj.weight": np.zeros((24, 3, 8, 4), np.float32)},
    }
    for line, content in cases.items():
        with pytest.raises(CheckpointError, match=line):
            vit.import_weights(save(tmp_path / "v.npz", content), str(tmp_path / "out"), **options(golden))
    path = save(tmp_path / "v.npz", state)
    for line, changes in {
        "no square grid": {"grid": None},
        "cannot be cut into patches of 8": {"size": (30, 32)},
        "has no heads of width 64": {"head_width": 64},
    }.items():
        with pytest.raises(CheckpointError, match=line):
            vit.import_weights(path, str(tmp_path / "out"), **options(golden) | changes)
    assert not (tmp_path / "out").exists()


def test_a_wrong_number_of_heads_is_noticed(golden, weights, tmp_path, monkeypatch):
    """The arrays fit any number of heads; what differs are the numbers."""
    plain = vit_reference.stages
    monkeypatch.setattr(vit_reference, "stages", lambda state, images, heads: plain(state, images, 2 * heads))
    with pytest.raises(CheckpointError, match="stage layer_00 differs by .* nothing was written"):
        vit.import_weights(weights, str(tmp_path / "out"), **options(golden))
    assert jax.tree.leaves(golden) and not (tmp_path / "out").exists()
