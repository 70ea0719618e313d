"""The importer as a user meets it: a command, files of every kind, and files that mean harm."""

import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from configs.default import get_config
from hvt_jax.interop import convert, original, original_config, torch_file
from hvt_jax.interop.safetensors_io import load_variables, save_variables
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import read_settings
from tests import golden_files, parity

GOLDEN = parity.GOLDENS / "ht_01_st_noncausal_mse_bn_nostem.npz"


@pytest.fixture(scope="module")
def golden() -> tuple[dict, dict[str, np.ndarray]]:
    """Return (config, state dict) of the original."""
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        config = json.loads(str(arrays["meta_json"]))["config"]
        state = {name.removeprefix("param/"): arrays[name] for name in arrays.files if name.startswith("param/")}
    return config, state


@pytest.fixture
def config_path(tmp_path, golden) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(golden[0]))
    return str(path)


def _write(path, state) -> str:
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(state, path)
    else:
        torch = pytest.importorskip("torch")
        tensors = {f"module.{name}": torch.from_numpy(value) for name, value in state.items()}
        # As a training loop saves it: nested, with the optimizer's state and a number beside.
        torch.save({"epoch": 3, "model": tensors, "optimizer": {"state": {0: {"step": 1}}}}, path)
    return str(path)


def _equal(tree, wanted) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_every_kind_of_file_gives_the_variables_of_the_parity_test(tmp_path, golden, config_path, ending):
    config, state = golden
    state = state | {"stranger.weight": np.zeros((2, 3), np.float32)}
    checkpoint = _write(tmp_path / f"epoch.{ending}", state)
    done = convert.import_checkpoint(checkpoint, config_path, str(tmp_path / "out"))
    assert set(done.unused) == parity.HEAD | {"stranger.weight"} and done.missing == []
    case = parity.Case(GOLDEN, "float32")
    variables = load_variables(tmp_path / "out" / convert.VARIABLES_FILE)
    _equal(variables, (case.params, case.stats))
    assert done.arrays == len(jax.tree.leaves(variables))
    written = json.loads((tmp_path / "out" / convert.CONFIG_FILE).read_text())
    assert written["model.hierarchy"] == "frame-clip" and written["model.clip.depth"] == 2
    assert written == json.loads(json.dumps(original_config.settings_overrides(config, state)))
    ours = get_config()
    ours.update_from_flattened_dict(written)
    assert read_settings(ours).data.mean == (0.0, 0.0, 0.0) and read_settings(ours).data.std == (1.0, 1.0, 1.0)


def _command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "hvt_jax", "import_original", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def test_the_command_prints_what_was_left_out(tmp_path, golden, config_path):
    config, state = golden
    # What the original's supervised method leaves: no predictions were trained.
    state = {name: value for name, value in state.items() if "predict" not in name}
    checkpoint = _write(tmp_path / "epoch.npz", state)
    done = _command(f"--checkpoint={checkpoint}", f"--config={config_path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "not used: 2\n  mlp_head.weight\n  mlp_head.bias\n" in done.stdout
    assert "missing, left as initialised: 11" in done.stdout
    assert "  levels/clip/predictors/down/out/kernel" in done.stdout


def test_the_command_ends_with_one_line_and_code_2(tmp_path, config_path):
    done = _command("--checkpoint=nowhere.pt", f"--config={config_path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: nowhere.pt is no file"]
    assert not (tmp_path / "out").exists()


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _rejected(checkpoint, config_path, tmp_path) -> str:
    with pytest.raises(CheckpointError) as error:
        convert.import_checkpoint(str(checkpoint), config_path, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_a_pickle_bomb_in_a_torch_file_does_not_go_off(tmp_path, config_path):
    torch = pytest.importorskip("torch")
    mark = tmp_path / "exploded"
    torch.save({"model": {"weight": torch.zeros(2)}, "extra": _Bomb(mark)}, tmp_path / "bomb.pt")
    message = _rejected(tmp_path / "bomb.pt", config_path, tmp_path)
    assert "posix.system" in message and "nothing of it was run" in message
    assert not mark.exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)  # it is a bomb
    assert mark.exists()


def test_a_pickle_bomb_in_an_npz_does_not_go_off(tmp_path, config_path):
    mark = tmp_path / "exploded"
    np.savez(tmp_path / "bomb.npz", weight=np.array([_Bomb(mark)], dtype=object))
    assert "bomb.npz" in _rejected(tmp_path / "bomb.npz", config_path, tmp_path)
    assert not mark.exists()
    with np.load(tmp_path / "bomb.npz", allow_pickle=True) as arrays:
        arrays["weight"]
    assert mark.exists()


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_a_truncated_file_is_rejected(tmp_path, golden, config_path, ending):
    path = tmp_path / f"epoch.{ending}"
    _write(path, golden[1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert str(path) in _rejected(path, config_path, tmp_path)


def test_a_few_bytes_that_declare_terabytes_are_rejected(tmp_path, config_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(1).expand(1_000_000_000_000)}, tmp_path / "wide.pt")
    assert "declares 4000000000000 bytes" in _rejected(tmp_path / "wide.pt", config_path, tmp_path)
    with zipfile.ZipFile(tmp_path / "wide.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", bytes(10_000_000))
    assert "unpacks to 10000000 bytes" in _rejected(tmp_path / "wide.npz", config_path, tmp_path)


def test_objects_other_than_tensors_are_named(tmp_path, config_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(2), "accuracy": np.float64(0.5)}, tmp_path / "scalar.pt")
    assert "Re-save it" in _rejected(tmp_path / "scalar.pt", config_path, tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    assert "no tensors at the top" in _rejected(tmp_path / "list.pt", config_path, tmp_path)


def test_without_torch_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(torch_file.TorchFileError, match=r"requirements-extras"):
        torch_file.torch_to_safetensors("model.pt", "out.safetensors")


def test_a_reader_that_hangs_is_stopped(tmp_path):
    pytest.importorskip("torch")
    os.mkfifo(tmp_path / "endless.pt")  # nothing is ever written into it
    with pytest.raises(torch_file.TorchFileError, match="was not read within 0.5 seconds"):
        torch_file.torch_to_safetensors(str(tmp_path / "endless.pt"), str(tmp_path / "out"), timeout_seconds=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": {}}, "lacks 'groups'"),
        ({"train": {"dataset": "moon"}}, "lacks"),
        ("not a mapping", "holds a str"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, golden, change, message):
    config = golden[0] | change if isinstance(change, dict) else change
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = _write(tmp_path / "epoch.npz", golden[1])
    assert message in _rejected(checkpoint, str(tmp_path / "config.json"), tmp_path)


def test_yaml_is_read_as_plain_values_only(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {task: mine}\narch:\n  groups: \"['space', 'time']\"\n")
    config = convert.read_config(str(tmp_path / "config.yaml"))
    assert original_config.groups_of(config) == ["space", "time"]
    (tmp_path / "bomb.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert.read_config(str(tmp_path / "bomb.yaml"))


def test_another_depth_or_width_names_the_array(tmp_path, golden, config_path):
    config, state = golden
    shallow = {name: value for name, value in state.items() if ".layers.1.1." not in name}
    message = _rejected(_write(tmp_path / "shallow.npz", shallow), config_path, tmp_path)
    assert "lacks" in message and "layer_01/mlp" in message
    narrow = state | {"linear_proj.space.bias": np.zeros(5, np.float32)}
    message = _rejected(_write(tmp_path / "narrow.npz", narrow), config_path, tmp_path)
    assert "linear_proj.space.bias has shape (5,)" in message


def test_a_map_between_equal_widths_is_not_dropped_silently(tmp_path, golden, config_path):
    config, state = golden
    config = json.loads(json.dumps(config))
    config["arch"]["architecture_backbone"]["dim"] = config["arch"]["architecture_space"]["dim"]
    (tmp_path / "equal.json").write_text(json.dumps(config))
    state = state | {
        f"to_patch_embedding.1.{name}": state[f"to_patch_embedding.1.{name}"][:16] for name in ("weight", "bias")
    }
    message = _rejected(_write(tmp_path / "epoch.npz", state), str(tmp_path / "equal.json"), tmp_path)
    assert "linear_proj.backbone.weight between equal widths" in message


@golden_files.each_misc_item("merged_configs")
def test_every_config_of_the_original_becomes_settings(key, golden):
    """Its default, merged with each of its own examples; one has another epsilon for a loss, used or not."""
    theirs = golden
    groups = original_config.groups_of(theirs)
    clips = theirs["arch"]["architecture_time"]["size_ratio"] if "clip" in groups else 1
    fields = original_config.settings_overrides(theirs, {}, num_groups={"clips": clips})
    config = get_config()
    config.update_from_flattened_dict(fields | {"model.stem.patch_size": 1})  # what patches are only the arrays say
    settings = read_settings(config)
    data, objective, losses = settings.data, settings.objective, theirs["train"]["loss_params"]
    sampler = theirs["data"][theirs["train"]["dataset"]]["sampler"]
    assert (data.frame_stride, data.window_step) == (sampler["frequency"], sampler["step"])
    assert data.max_windows_per_video == theirs["data"]["max_seq_per_video"]
    assert objective.weights_to_uniform == theirs["train"]["interpolate_loss_weights_to_uniformity"]
    assert objective.cross_entropy_epsilon == losses["CE"]["eps"]
    assert objective.variance_epsilon == losses["VICREG"]["eps"]


def test_hidden_layers_without_a_norm_are_two_apart():
    names = {
        f"predictors.space_u.layers.{part}": 0 for part in ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight")
    }
    path = ("levels", "frame", "predictors", "up")
    assert original.original_name((*path, "hidden", "linear_1", "bias"), names) == "predictors.space_u.layers.2.bias"
    assert original.original_name((*path, "out", "kernel"), names) == "predictors.space_u.layers.4.weight"


def test_the_number_of_clips_is_read_from_the_state():
    table = {"transformer_modules.clip.pos_embedding": np.zeros((1, 4, 8))}
    assert original_config.clips_of(table, ["space", "time", "clip"]) == 4
    assert original_config.clips_of(table | {"transformer_modules.clip.cls_token": 0}, ["time", "clip"]) == 3
    assert original_config.clips_of({}, ["space", "time"]) == 1


def test_one_head_without_an_output_map_gets_the_identity():
    state = {"transformer_modules.space.transformer.layers.0.0.fn.to_qkv.weight": np.ones((12, 4))}

    def imported(state, inner=4):
        shapes = {"qkv": {"kernel": np.zeros((4, 3 * inner))}, "out": {"kernel": np.zeros((inner, 4))}}
        path = ("levels", "frame", "transformer", "layers", "layer_00", "attention")
        return original.import_tree(shapes, state, set(), path)

    np.testing.assert_array_equal(imported(state)["out"]["kernel"], np.eye(4))
    two_heads = {name: np.ones((24, 4)) for name in state}
    with pytest.raises(ValueError, match="to_out"):  # 8 inner values to 4 need a map
        imported(two_heads, inner=8)


def test_variables_survive_a_round_trip(tmp_path):
    params = {"levels": {"frame": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}}}
    stats = {"levels": {"frame": {"mean": np.zeros(3, np.float32)}}}
    save_variables(tmp_path / "model.safetensors", params, stats)
    _equal(load_variables(tmp_path / "model.safetensors"), (params, stats))
    save_variables(tmp_path / "model.safetensors", params, {})  # no statistics without BatchNorm
    _equal(load_variables(tmp_path / "model.safetensors"), (params, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_variables(tmp_path / "model.safetensors")
    _write(tmp_path / "strange.safetensors", {"params": np.zeros(1, np.float32)})
    with pytest.raises(CheckpointError, match="'params' is no path of ours"):
        load_variables(tmp_path / "strange.safetensors")
