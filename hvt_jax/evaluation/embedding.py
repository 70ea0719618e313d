"""Maps of a level's features: every video as a point of the plane, by PCA, t-SNE or UMAP."""

import importlib.util

import numpy as np

METHODS = ("pca", "tsne", "umap")
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
FEWEST = 3  # videos of which a map can be made

_PERPLEXITY = 30.0
_WIDTH = 50  # directions that t-SNE and UMAP start from, as usual
_NEIGHBOURS = 15
_THREADS_PAY = 500  # videos; with 4 of them and two busy cores t-SNE took half a minute


def available_methods() -> tuple[str, ...]:
    """Return the methods whose library is installed."""
    return tuple(name for name in METHODS if name != "umap" or importlib.util.find_spec("umap") is not None)


def embed(features: np.ndarray, method: str, *, seed: int = 0) -> np.ndarray:
    """Return a point for every video, float32 [N, 2]; the same for the same features and seed.

    Features are scaled to length 1 first, so that near means what it means to the nearest neighbours.

    Args:
      features: [N, D], finite.
      method: "pca", "tsne" (van der Maaten & Hinton 2008) or "umap" (McInnes et al. 2018).
      seed: of t-SNE and UMAP.

    Raises:
      ValueError: for fewer videos than `FEWEST` or an unknown method.
      ImportError: for "umap" without umap-learn.
    """
    features = np.asarray(features, np.float32)
    if len(features) < FEWEST:
        raise ValueError(f"a map of {len(features)} videos says nothing; it needs at least {FEWEST}")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    reduced = _principal_components(unit, min(_WIDTH, *unit.shape))
    if method == "pca":
        return np.pad(reduced, ((0, 0), (0, max(0, 2 - reduced.shape[1]))))[:, :2]
    if method == "tsne":
        return _tsne(reduced, seed)
    if method == "umap":
        return _umap(reduced, seed)
    raise ValueError(f"{method!r} is no map; there are {', '.join(METHODS)}")


def _principal_components(rows: np.ndarray, count: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore", divide="ignore"):  # shares of no variance, where all rows are the same
        return PCA(count, svd_solver="full").fit_transform(rows).astype(np.float32)


def _tsne(reduced: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # From the first two components, as small as scikit-learn makes them: the big picture is then that of PCA.
    start = np.pad(reduced, ((0, 0), (0, max(0, 2 - reduced.shape[1]))))[:, :2]
    spread = start[:, 0].std()
    noise = np.random.default_rng(seed).normal(size=start.shape).astype(np.float32)  # equal videos must not coincide
    start = 1e-4 * (start / spread if spread > 1e-12 else noise) + 1e-8 * noise
    perplexity = min(_PERPLEXITY, (len(reduced) - 1) / 3)
    # Of few videos an iteration is so short that threads would do little but wait for each other.
    with threadpool_limits(1 if len(reduced) < _THREADS_PAY else None, user_api="openmp"):
        return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced).astype(np.float32)


def _umap(reduced: np.ndarray, seed: int) -> np.ndarray:
    import umap

    neighbours = min(_NEIGHBOURS, len(reduced) - 1)
    # For fewer than some ten points its spectral start has no solution.
    start = "spectral" if len(reduced) > 20 else "random"
    mapper = umap.UMAP(n_components=2, n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1)
    return mapper.fit_transform(reduced).astype(np.float32)
