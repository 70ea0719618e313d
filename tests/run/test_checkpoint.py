"""Checkpoints come back bit for bit, or not at all and with a word why."""

import dataclasses
import functools
import json
import os
import random
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hvt_jax.run import seals
from hvt_jax.run.checkpoint import CheckpointError, Checkpoints, parameter_digest, save_diverged
from hvt_jax.settings import CheckpointSettings

METRIC = "knn/clip/top1"
SETTINGS = CheckpointSettings(interval_steps=1, keep_latest=3, keep_best=2, best_metric=METRIC)


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    stats: dict
    opt_state: optax.OptState
    key: jax.Array
    extra: dict


@functools.cache  # the eager optimizer is slow
def make_state(seed=0, width=3):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "levels": {
            "frame": {"kernel": normal(8, width), "predictors": {"up": normal(width)}},
            "clip": {"kernel": normal(8, 8).astype(jnp.bfloat16)},
        }
    }
    labels = {"levels": {"frame": {"kernel": "frame", "predictors": {"up": "frame/predictors"}}, "clip": "clip"}}
    rule = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), 5)
    tx = optax.partition({"frame": rule, "frame/predictors": optax.sgd(0.1, momentum=0.9), "clip": rule}, labels)
    opt_state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[1]
    extra = {"none": None, "empty": (), "rows": jnp.zeros((0, 3)), "count": np.int64(seed), "table": np.arange(3.0)}
    return State(jnp.asarray(seed), params, {"mean": normal(4)}, opt_state, jax.random.key(seed), extra)


def abstract(state, sharding=None):
    def describe(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(describe, state)


class Opened(Checkpoints):
    """Checkpoints that collect their warnings."""

    def __init__(self, folder, settings=SETTINGS, **options):
        self.warnings = []
        super().__init__(folder, settings, best_metric=METRIC, warn=self.warnings.append, **options)


def save_steps(folder, steps, settings=SETTINGS, metrics=None):
    with Opened(folder, settings) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {METRIC: metrics[step]} if metrics else None)
        checkpoints.wait()
        assert checkpoints.warnings == []


def steps_left(folder):
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit())


def test_round_trip_keeps_every_bit_and_type(tmp_path):
    state = make_state(7)
    with Opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(abstract(state)) is None
        checkpoints.save(np.int64(7), state, {METRIC: np.float32(0.5), "bad": float("nan")})
        assert checkpoints.wait() == 7 and checkpoints.poll() is None
    with Opened(tmp_path / "c") as checkpoints:
        step, restored, record = checkpoints.restore(abstract(state))
    assert step == 7 and record["metrics"] == {METRIC: 0.5, "bad": "nan"}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert parameter_digest(restored) == parameter_digest(state)
    assert restored.params["levels"]["clip"]["kernel"].dtype == jnp.bfloat16
    assert restored.extra["rows"].shape == (0, 3)


def test_saved_state_may_be_donated_at_once(tmp_path):
    def body(tree):
        return jax.tree.map(lambda x: x + 1, tree)

    state = {"a": jnp.zeros((512, 512)), "b": jnp.zeros((300, 1000))}
    advance = jax.jit(body, donate_argnums=0)
    digests = {}
    settings = dataclasses.replace(SETTINGS, keep_latest=9)
    with Opened(tmp_path, settings) as checkpoints:
        for step in range(4):
            digests[step] = parameter_digest(jax.tree.map(np.array, state))
            checkpoints.save(step, state)
            state = advance(state)
    with Opened(tmp_path, read_only=True) as checkpoints:
        for step, digest in digests.items():
            assert parameter_digest(checkpoints.restore(abstract(state), step)[1]) == digest


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(4, 1), (1, 4), (4, 2)])
def test_devices_may_change_between_save_and_restore(tmp_path, saved_on, loaded_on):
    if jax.device_count() < 4:
        pytest.skip("needs 4 simulated devices")

    def place(devices):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        return NamedSharding(mesh, PartitionSpec("data"))

    tree = {"sharded": np.random.default_rng(0).normal(size=(8, 5)).astype("float32")}
    with Opened(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(tree, place(saved_on)))
        checkpoints.wait()
        target = jax.ShapeDtypeStruct((8, 5), jnp.float32, sharding=place(loaded_on))
        restored = checkpoints.restore({"sharded": target})[1]
    assert restored["sharded"].sharding == place(loaded_on)
    assert parameter_digest(restored) == parameter_digest(tree)


def test_small_arrays_that_several_devices_hold_are_saved_without_a_program(tmp_path, caplog):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    shapes = ((8, 7), (12, 5))  # of no other test
    tree = jax.device_put({str(shape): np.ones(shape) for shape in shapes}, NamedSharding(mesh, PartitionSpec()))
    with Opened(tmp_path) as checkpoints, jax.log_compiles():
        checkpoints.save(1, tree)
        checkpoints.wait()
    assert not [record for record in caplog.records if "ompil" in record.message]


def test_latest_and_best_are_kept(tmp_path):
    scores = {1: 0.9, 2: 0.1, 3: 0.8, 4: float("nan"), 5: 0.2, 6: 0.3, 7: 0.4}
    save_steps(tmp_path, scores, metrics=scores)
    assert steps_left(tmp_path) == [1, 3, 5, 6, 7]
    assert sorted(p.name for p in tmp_path.glob("manifest-*")) == [f"manifest-{step}.json" for step in (1, 3, 5, 6, 7)]


def test_a_restart_deletes_nothing_before_it_seals_something(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    with Opened(tmp_path, dataclasses.replace(SETTINGS, keep_latest=1)) as checkpoints:
        assert checkpoints.restore(abstract(make_state()))[0] == 3
        assert steps_left(tmp_path) == [1, 2, 3]
        checkpoints.save(4, make_state(4))
        checkpoints.wait()
    assert steps_left(tmp_path) == [4]


def test_saving_a_step_again_only_adds_its_metrics(tmp_path):
    save_steps(tmp_path, [1])
    with Opened(tmp_path) as checkpoints:
        checkpoints.restore(abstract(make_state()))
        before = os.stat(tmp_path / "1").st_ino
        checkpoints.save(1, make_state(99), {METRIC: 0.7})
        checkpoints.wait()
        assert os.stat(tmp_path / "1").st_ino == before
        assert checkpoints.restore(abstract(make_state()))[2]["metrics"] == {METRIC: 0.7}


def _damage(path, kind, rng):
    size = os.path.getsize(path)
    if kind == "delete" or size == 0:
        os.remove(path)
    elif kind == "truncate":
        os.truncate(path, rng.randrange(size))
    else:
        with open(path, "r+b") as file:
            file.seek(rng.randrange(size))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ (1 << rng.randrange(8))]))


def test_every_damage_to_the_newest_step_is_found(tmp_path):
    save_steps(tmp_path / "good", [10, 20])
    target = abstract(make_state())
    digest = parameter_digest(make_state(10))
    files = [name for name in seals._files(tmp_path / "good") if name.startswith(("20/", "manifest-20"))]
    faults = [(file, kind) for file in files for kind in ("flip", "truncate", "delete")]
    rng = random.Random(0)
    for file, kind in [(file, "flip") for file in files] + rng.sample(faults, 30):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        _damage(tmp_path / "bad" / file, kind, rng)
        with Opened(tmp_path / "bad") as checkpoints:
            step, restored, _ = checkpoints.restore(target)
        assert step == 10 and parameter_digest(restored) == digest, (file, kind)
        (line,) = checkpoints.warnings
        named = file if file.startswith("manifest") else file.removeprefix("20/")
        assert line.startswith("checkpoint 20 rejected: ") and named in line and "step 10" in line
        assert steps_left(tmp_path / "bad") == [10] and (tmp_path / "bad" / "rejected-20").is_dir()
        shutil.rmtree(tmp_path / "bad")


def test_a_rejected_step_can_be_saved_again(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2" / "state" / "_METADATA").write_text("{}")
    with Opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state()))[0] == 1
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
        assert checkpoints.restore(abstract(make_state()))[0] == 2
    assert len(checkpoints.warnings) == 1


def test_of_saves_that_were_never_sealed_one_is_kept(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    for step in (3, 2):
        (tmp_path / f"manifest-{step}.json").unlink()
        with Opened(tmp_path) as checkpoints:
            assert checkpoints.restore(abstract(make_state()))[0] == step - 1
        assert [path.name for path in tmp_path.glob("rejected-*")] == [f"rejected-{step}"]


def test_a_file_that_was_not_there_is_found(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2" / "state" / "more").touch()
    with Opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state()))[0] == 1
    assert "state/more is not in its manifest" in checkpoints.warnings[0]


def test_nothing_usable_is_an_error_that_repeats(tmp_path):
    save_steps(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / str(step) / "state" / "_METADATA").write_text("{}")
    for _ in range(2):
        with Opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="step 2: .*step 1: ") as caught:
            checkpoints.restore(abstract(make_state()))
        assert "_METADATA has 2 bytes" in str(caught.value) and "\n" not in str(caught.value)


def test_unsealed_steps_and_leftovers_of_a_kill_are_not_used(tmp_path):
    save_steps(tmp_path, [1, 2])
    os.remove(tmp_path / "manifest-2.json")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "deleting-1").mkdir()
    with Opened(tmp_path) as checkpoints:
        assert not (tmp_path / "3.orbax-checkpoint-tmp").exists() and not (tmp_path / "deleting-1").exists()
        assert checkpoints.restore(abstract(make_state()))[0] == 1
    assert len(checkpoints.warnings) == 1 and "not sealed" in checkpoints.warnings[0]


def test_a_run_killed_in_its_first_save_starts_again(tmp_path):
    save_steps(tmp_path, [1])
    os.remove(tmp_path / "manifest-1.json")
    with Opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state())) is None
        assert "starting from the beginning" in checkpoints.warnings[0]
        checkpoints.save(1, make_state(1))


def test_read_only_leaves_a_live_folder_alone(tmp_path):
    save_steps(tmp_path, [1, 2])
    os.remove(tmp_path / "manifest-2.json")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(os.listdir(tmp_path))
    with Opened(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore({"params": abstract(make_state()).params}, partial=True)[0] == 1
        with pytest.raises(CheckpointError, match="read-only"):
            checkpoints.save(5, make_state())
    assert sorted(os.listdir(tmp_path)) == before


def test_an_older_step_on_demand(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    with Opened(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 9; there are \[1, 2, 3\]"):
            checkpoints.restore(abstract(make_state()), 9)
        assert checkpoints.restore(abstract(make_state()), 2)[0] == 2
    assert steps_left(tmp_path) == [1, 2] and "newer than step 2" in checkpoints.warnings[0]


def test_going_back_takes_the_newest_good_step_before_and_frees_the_later_ones(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    (tmp_path / "manifest-2.json").write_text("{}")
    with Opened(tmp_path) as checkpoints:
        step, state, _ = checkpoints.restore_before(abstract(make_state(1)), 3)
        assert step == 1 and int(state.step) == 1
        checkpoints.save(3, make_state(4))
        checkpoints.wait()
        assert {"rejected-2", "rejected-3"} <= {path.name for path in tmp_path.iterdir()}
        assert int(checkpoints.restore_before(abstract(make_state(1)), 9)[1].step) == 4
        assert checkpoints.restore_before(abstract(make_state(1)), 1) is None
    assert steps_left(tmp_path) == []


def test_differing_paths_are_listed(tmp_path):
    save_steps(tmp_path, [1])
    target = abstract(make_state(width=5))
    target.params["levels"]["sequence"] = {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)}
    del target.stats["mean"]
    with Opened(tmp_path) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.restore(target)
    lines = str(caught.value).splitlines()
    assert "params/levels/sequence/kernel: not in the checkpoint, float32[2] in the config" in lines[1]
    assert any("params/levels/frame/kernel: float32[8,3] in the checkpoint, float32[8,5]" in line for line in lines)
    assert any("stats/mean: float32[4] in the checkpoint, not in the config" in line for line in lines)
    assert "config.json" in lines[-1]
    many = {f"p{index:02}": jax.ShapeDtypeStruct((1,), jnp.float32) for index in range(30)}
    with Opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="and .* more") as caught:
        checkpoints.restore(many)
    assert len(str(caught.value).splitlines()) == 23


def test_too_little_space_is_said_before(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    with Opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="needs .* bytes, but .* has 100 bytes"):
        checkpoints.save(2, make_state(2))
    assert steps_left(tmp_path) == [1]


def test_a_folder_that_vanished_is_told_at_once(tmp_path):
    with Opened(tmp_path / "c") as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        shutil.rmtree(tmp_path / "c")
        (tmp_path / "c").touch()  # unlike a read-only folder this stops root, too
        with pytest.raises(CheckpointError, match="checkpoint 2"):
            checkpoints.save(2, make_state(2))


def test_a_failure_in_the_background_comes_with_the_next_poll(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with Opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(seals, "seal", fail)
            checkpoints.save(2, make_state(2))
            checkpoints._pending[1].exception()
            with pytest.raises(CheckpointError, match="checkpoint 2 .*No space left.*steps before it are intact"):
                checkpoints.poll()
        assert checkpoints.poll() is None
        checkpoints.save(3, make_state(3))
    with Opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state()))[0] == 3


def test_diverged_states_go_apart(tmp_path):
    save_steps(tmp_path / "checkpoints", [1])
    state = make_state(5)
    for _ in range(2):
        save_diverged(tmp_path / "diverged", 5, state)
    assert steps_left(tmp_path / "checkpoints") == [1]
    with Opened(tmp_path / "diverged", read_only=True) as checkpoints:
        assert parameter_digest(checkpoints.restore(abstract(state))[1]) == parameter_digest(state)


def test_digest_sees_values_paths_types_and_shapes():
    trees = [
        {"a": jnp.zeros(4)},
        {"a": jnp.zeros(4).at[0].set(-0.0)},
        {"b": jnp.zeros(4)},
        {"a": jnp.zeros(4, jnp.int32)},
        {"a": jnp.zeros((2, 2))},
        {"a": jax.random.key(0)},
    ]
    assert len({parameter_digest(tree) for tree in trees}) == len(trees)
    assert parameter_digest({"x": jnp.ones(2), "a": 1.0}) == parameter_digest({"a": 1.0, "x": np.ones(2, np.float32)})


def test_manifest_names_every_leaf(tmp_path):
    save_steps(tmp_path, [1])
    with open(tmp_path / "manifest-1.json") as file:
        leaves = json.load(file)["leaves"]
    assert leaves["params/levels/frame/kernel"] == "float32[8,3]" and leaves["key"] == "key<fry>[]"


def test_the_best_are_those_among_scores_of_the_same_tests(tmp_path):
    """Scores on other videos say nothing of each other: 90 % of easy ones must not push 60 % of hard ones out."""
    for step, (tests, score) in enumerate(
        [(1, 90.0), (1, 80.0), (1, 95.0), (2, 50.0), (2, 60.0), (2, 40.0), (2, 30.0)]
    ):
        (tmp_path / str(step)).mkdir()
        seals.seal(str(tmp_path), step, {"metrics": {METRIC: score}, "tests": tests})
        seals.retain(str(tmp_path), 1, 1, METRIC)
    assert seals.steps_in(str(tmp_path)) == [2, 4, 6]
    seals.add_metrics(str(tmp_path), 6, {METRIC: 70.0}, 2)
    seals.add_metrics(str(tmp_path), 2, {METRIC: 20.0}, 2)  # evaluated anew, on the others
    seals.retain(str(tmp_path), 1, 1, METRIC)
    assert seals.steps_in(str(tmp_path)) == [6]
    assert seals.read_manifest(str(tmp_path), 6)["metrics"] == {METRIC: 70.0}
