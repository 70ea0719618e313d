"""Positions of a model on videos of another size."""

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine import state as state_lib
from hvt_jax.model import sizes
from hvt_jax.settings.geometry import model_hierarchy
from tests import small


def test_positions_are_resampled_linearly_and_the_class_token_keeps_its_own():
    table = jnp.array([[9.0], [0.0], [2.0], [4.0], [6.0]])
    found = sizes.resample(table, (4,), (2,), class_token=True)
    np.testing.assert_allclose(found[0], 9.0)
    assert 0 < found[1, 0] < 3 < found[2, 0] < 6  # halves of the way: smoothed, in order
    np.testing.assert_allclose(found[1, 0] + found[2, 0], 6.0, rtol=1e-6)
    # Twice as many: quarters between neighbours, the ends held.
    doubled = sizes.resample(table[1:], (4,), (8,), class_token=False)
    np.testing.assert_allclose(doubled[:, 0], [0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6], rtol=1e-6)


def test_rows_and_columns_of_patches_are_resampled_as_a_grid():
    grid = jnp.arange(6.0).reshape(2, 3, 1)  # 3 * row + column
    found = sizes.resample(grid.reshape(6, 1), (2, 3), (1, 3), class_token=False)
    np.testing.assert_allclose(found[:, 0], [1.5, 2.5, 3.5], rtol=1e-6)


def test_a_model_encodes_videos_of_another_size():
    definition = small.define(**{"model.hierarchy": "patch-frame-clip-sequence"})
    frames, rng = 8, np.random.default_rng(0)
    other = model_hierarchy(definition.settings.model, num_frames=frames, height=8, width=16)

    @jax.jit
    def encode(params, stats, video, own):
        model = state_lib.merge(definition.graphdef, params, stats)
        size = sizes.other_size(model, other, ((2, 3), (1, 2)))
        same = sizes.other_size(model, definition.hierarchy, ((2, 3), (2, 3)))
        found = model(video, train=False, size=size), model(own, train=False, size=same), model(own, train=False)
        tokens = [{name: output.tokens for name, output in outputs.items()} for outputs in found]
        return size.positions, same.positions, *tokens

    video, own = (rng.normal(size=size).astype(np.float32) for size in ((2, frames, 8, 16, 3), (2, 4, 16, 24, 3)))
    resampled, kept, outputs, with_same, alone = encode(*small.drawn_variables(definition), video, own)
    assert resampled["frame"].shape == (3, 8) and kept == {}
    assert {name: tokens.shape[1] for name, tokens in outputs.items()} == {
        name: other.num_tokens(name) for name in definition.hierarchy.levels
    }
    for name, tokens in with_same.items():
        np.testing.assert_array_equal(tokens, alone[name])
