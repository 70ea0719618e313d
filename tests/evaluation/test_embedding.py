"""Maps keep groups together, are the same each time, and bear features that say nothing."""

import numpy as np
import pytest

from hvt_jax.evaluation import embedding

RNG = np.random.default_rng(0)
GROUPS = np.concatenate([RNG.normal(0, 0.1, (8, 6)) + 3 * np.eye(6)[axis] for axis in (0, 1)])


@pytest.mark.parametrize("method", embedding.available_methods())
def test_groups_stay_together(method):
    found = embedding.embed(GROUPS, method)
    assert found.shape == (16, 2) and found.dtype == np.float32
    np.testing.assert_array_equal(found, embedding.embed(GROUPS, method))
    apart = np.linalg.norm(found[:, None] - found, axis=-1) + 1e9 * np.eye(16)
    assert ((apart.argmin(1) < 8) == (np.arange(16) < 8)).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("features", [np.zeros((4, 3)), np.ones((3, 1)), np.eye(3)], ids=["zeros", "ones", "few"])
def test_features_that_say_nothing(method, features):
    found = embedding.embed(features, method)
    assert found.shape == (len(features), 2) and np.isfinite(found).all()


def test_refusals():
    with pytest.raises(ValueError, match="a map of 2 videos says nothing; it needs at least 3"):
        embedding.embed(np.eye(2), "pca")
    with pytest.raises(ValueError, match="'mds' is no map; there are pca, tsne, umap"):
        embedding.embed(np.eye(3), "mds")
