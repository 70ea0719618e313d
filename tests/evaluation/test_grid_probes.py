"""Grids of probes: settings side by side are what each is alone; held-out videos choose; chunks change nothing."""

import jax
import numpy as np
import pytest

from configs import default
from hvt_jax.evaluation import attentive, grid_probes, protocols
from hvt_jax.evaluation.grid_probes import Schedule, Setting
from hvt_jax.evaluation.probe_networks import Linear, Mlp
from hvt_jax.settings import read_settings

SETTINGS = (Setting(5e-2, 0.0), Setting(1e-3, 1.0), Setting(0.0, 0.0))
SCHEDULE = Schedule(batch=16, epochs=1, least=12, most=12)


@pytest.fixture(scope="module")
def examples():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    centres = random.normal(size=(3, 5))
    return (centres[labels] + 0.3 * random.normal(size=(60, 5))).astype(np.float32), labels


def _fit(probe, features, labels, settings=SETTINGS, **others):
    fields = {"num_classes": 3, "settings": settings, "schedule": SCHEDULE} | others
    return jax.device_get(grid_probes.fit(probe, features, labels, np.arange(40), **fields))


def test_settings_side_by_side_are_what_each_is_alone(examples):
    probe = Mlp(5, 4, 3)
    together = _fit(probe, *examples)
    for number, setting in enumerate(SETTINGS):
        alone = _fit(probe, *examples, settings=(setting,))
        for name, leaf in alone.items():
            np.testing.assert_allclose(leaf[0], together[name][number], atol=1e-6)
    fresh = jax.device_get(probe.initialise(jax.random.key(0)))
    np.testing.assert_array_equal(together["hidden"][2], fresh["hidden"])  # a rate of 0 moves nothing
    assert np.abs(together["hidden"][0] - fresh["hidden"]).max() > 1e-3


def test_chunks_files_and_classes_that_nobody_has_change_nothing(examples, tmp_path, monkeypatch):
    features, labels = examples
    expected = _fit(Linear(5, 3), features, labels)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(grid_probes, "_CHUNK_BYTES", 5 * 16 * 20)  # 5 steps at a time of 12
    found = _fit(Linear(5, 3), mapped, labels)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], atol=1e-6)
    wide = _fit(Linear(5, 7), mapped, labels)
    np.testing.assert_allclose(wide["kernel"][..., :3], expected["kernel"], atol=1e-6)
    rows = np.arange(50)
    asked = grid_probes.predict(Linear(5, 3), found, mapped, rows, 3)
    np.testing.assert_allclose(asked[0], features[:50] @ expected["kernel"][0] + expected["bias"][0], atol=1e-5)


def test_held_out_videos_choose_and_the_test_is_asked_once(examples, monkeypatch):
    features, labels = examples
    learn, held = grid_probes.hold_out(60)
    assert len(held) == 12 and sorted([*learn, *held]) == list(range(60))
    with pytest.raises(ValueError, match="at least 2"):
        grid_probes.hold_out(1)
    seen, predict = [], grid_probes.predict
    monkeypatch.setattr(
        grid_probes, "predict", lambda *given: (seen.append((len(given[3]), len(given[1]["bias"]))), predict(*given))[1]
    )
    test = np.stack([features[:9], features[:9] + 0.01], axis=1)
    fields = {"num_classes": 3, "settings": SETTINGS, "schedule": SCHEDULE}
    chosen = grid_probes.choose_and_fit(Linear(5, 3), features, labels, test, **fields)
    assert seen == [(12, 3), (9, 1), (9, 1)]  # all settings on the held-out videos, the best one on each view
    assert chosen.scores.shape == (9, 2, 3) and chosen.setting == SETTINGS[0]
    assert chosen.held_out_top1[0] == max(chosen.held_out_top1) > 50


def test_attention_without_keys_and_values_is_attention():
    probe, random = attentive.make_probe(128, 3), np.random.default_rng(1)
    assert (
        probe.num_heads == 2
        and attentive.make_probe(96, 3).num_heads == 2
        and attentive.make_probe(10, 3).num_heads == 1
    )
    params = {
        name: np.asarray(leaf + 0.1 * random.normal(size=leaf.shape), np.float32)
        for name, leaf in jax.device_get(jax.jit(probe.initialise)(jax.random.key(0))).items()
    }
    tokens = random.normal(size=(4, 6, 128)).astype(np.float32)
    found = jax.jit(lambda params, tokens: probe.logits(params, probe.prepare(tokens)))(params, tokens)

    def norm(x, scale, bias):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

    keyed = norm(tokens, params["norm_scale"], params["norm_bias"])
    query = (params["query"] @ params["query_map"] + params["query_bias"]).reshape(2, 64)
    keys = (keyed @ params["key_map"]).reshape(4, 6, 2, 64)
    values = (keyed @ params["value_map"] + params["value_bias"]).reshape(4, 6, 2, 64)
    weights = np.asarray(jax.jit(jax.nn.softmax)(np.einsum("hk,bnhk->bhn", query, keys) / 8))
    mixed = np.einsum("bhn,bnhk->bhk", weights, values).reshape(4, 128)
    asked = params["query"] + mixed @ params["out_map"] + params["out_bias"]
    hidden = (
        norm(asked, params["mlp_norm_scale"], params["mlp_norm_bias"]) @ params["hidden_map"] + params["hidden_bias"]
    )
    activated = np.asarray(jax.jit(lambda x: jax.nn.gelu(x, approximate=False))(hidden))
    asked = asked + activated @ params["mlp_out_map"] + params["mlp_out_bias"]
    np.testing.assert_allclose(found, asked @ params["head_map"] + params["head_bias"], atol=2e-3)


def _task(train, labels, test):
    evaluation = read_settings(default.get_config()).evaluation
    return protocols.Task(train, {"shape": labels}, test, {"shape": 3}, train.shape[-1], evaluation)


def test_the_protocols_find_what_is_there(examples, monkeypatch):
    features, labels = examples
    monkeypatch.setattr(protocols, "LINEAR_SCHEDULE", Schedule(16, 1, 60, 60))
    task = _task(features[:40], labels[:40], np.stack([features[40:], features[40:]], axis=1))
    for name in ("knn", "retrieval", "linear"):
        (answer,) = protocols.ON_FEATURES[name](task).values()
        assert answer.scores.shape == (20, 3)
        assert (answer.scores.argmax(1) == labels[40:]).mean() > 0.8, name
    assert (answer.check["sklearn"].argmax(1) == labels[40:]).mean() > 0.8
    assert answer.details["sklearn"].startswith("LogisticRegression(C=")
