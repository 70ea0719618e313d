"""Fine-tuning: rates fall from layer to layer, videos and labels are mixed alike, only what is asked moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hvt_jax.engine import steps
from hvt_jax.evaluation import finetune
from hvt_jax.evaluation.finetune import FinetuneSettings
from tests import small

SETTINGS = FinetuneSettings(epochs=1, rate=0.1, layer_decay=0.5, mixup=0.8, cutmix=1.0, smoothing=0.1)
FIELDS = {"model.hierarchy": "frame-clip", "model.num_clips": 1}


@pytest.fixture(scope="module")
def state_and_definition():
    definition = small.define(**FIELDS)
    params, stats = steps.initial_variables(definition, 0)
    return finetune.initialise(params, stats, 8, 3, jax.random.key(0)), definition


def test_rates_fall_towards_the_stem(state_and_definition):
    state, definition = state_and_definition
    scales = small.named_leaves(finetune.layer_scales(state.params, definition, "clip", 0.5))
    found = {name: float(scale) for name, scale in scales.items()}
    for name, scale in found.items():
        parts = name.split("/")
        expected = {"head": 1.0, "model/stem": 0.125, "model/levels": 0.0}[
            "/".join(parts[: 1 if parts[0] == "head" else 2])
        ]
        if parts[1] == "levels" and parts[3] != "predictors":
            expected = {"frame": 0.25, "clip": 0.5}[parts[2]]  # one layer each
        assert scale == expected, name
    below = small.named_leaves(finetune.layer_scales(state.params, definition, "frame", 0.5))
    assert {float(scale) for name, scale in below.items() if name.startswith("model/levels/clip")} == {0.0}
    assert {float(scale) for name, scale in below.items() if name.startswith("model/stem")} == {0.25}


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_pixels_and_labels_are_mixed_alike(kind):
    off = {"mixup": 0.0, "cutmix": 0.0}
    settings = FinetuneSettings(**(off | {kind: 1.0}))
    video = jnp.ones((2, 3, 32, 40, 3)) * jnp.arange(2.0)[:, None, None, None, None]
    targets = jnp.eye(2)
    shares = set()
    for number in range(4):
        mixed, labels = finetune.mix(jax.random.key(number), video, targets, settings)
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(mixed.mean((1, 2, 3, 4)), labels[:, 1], atol=1e-5)  # video 1 is all ones
        values = np.unique(np.asarray(mixed[0]).round(5))
        assert len(values) == 1 or set(values) == {0.0, 1.0}
        np.testing.assert_array_equal(mixed[:, 0], mixed[:, 2])  # all frames alike
        shares.add(round(float(labels[0, 0]), 4))
    assert len(shares) > 2
    same, labels = finetune.mix(jax.random.key(0), video, targets, FinetuneSettings(**off))
    assert same is video and labels is targets


def test_a_step_moves_what_is_below_the_level_and_nothing_else(state_and_definition):
    state, definition = state_and_definition
    batch = small.batch_of(definition) | {"label": np.array([0, 1, 2, 0], np.int32)}
    step = jax.jit(finetune.build_step(definition, "frame", SETTINGS, 4))
    first = state
    losses = []
    for _ in range(3):
        state, loss = step(state, batch, jax.random.key(1), 4.0, 3.0)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(3), abs=0.05) and np.isfinite(losses).all()
    moved = {
        name: not np.array_equal(new, old)
        for (name, new), old in zip(
            small.named_leaves(state.params).items(), small.named_leaves(first.params).values(), strict=True
        )
    }
    for name, has_moved in moved.items():
        below = name.startswith(("head", "model/stem")) or name.startswith("model/levels/frame/")
        assert has_moved == (below and "predictors" not in name), name
    changed = small.named_leaves(state.stats)
    for name, before in small.named_leaves(first.stats).items():
        if name.startswith("levels/clip"):
            np.testing.assert_array_equal(changed[name], before)
    # A batch without any video that can be read moves nothing that depends on it.
    _, loss = step(state, batch | {"valid": np.zeros(4, bool)}, jax.random.key(1), 4.0, 3.0)
    assert loss == 0.0
