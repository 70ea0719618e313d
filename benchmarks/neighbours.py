"""How long nearest neighbours take on many features, side by side with scikit-learn's brute force.

    python -m benchmarks.neighbours

By default the sizes of Kinetics-400: 240,000 training and 20,000 test features of 384 numbers, 20 neighbours. Both
search the same unit vectors for the largest inner products (scikit-learn: for the smallest distances, which on unit
vectors is the same order); they take turns, and the fastest of each counts. Prints seconds, those of all cores together
(which tell more where others use the machine, too), both ratios, and how many of the neighbours agree.
"""

import argparse
import time

import numpy as np

from hvt_jax.evaluation import knn


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in {"train": 240_000, "test": 20_000, "width": 384, "neighbours": 20, "turns": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    sizes = parser.parse_args()
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(0)
    train, test = (random.normal(size=(rows, sizes.width)).astype(np.float32) for rows in (sizes.train, sizes.test))
    train, test = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (train, test))
    brute = NearestNeighbors(n_neighbors=sizes.neighbours, algorithm="brute", n_jobs=-1)

    searches = {
        "hvt_jax": lambda: knn.find_neighbours(train, test, sizes.neighbours).index,
        "scikit-learn": lambda: brute.fit(train).kneighbors(test, return_distance=False),
    }
    seconds, found = {name: [] for name in searches}, {}
    for _ in range(sizes.turns + 1):  # the first turn compiles
        for name, search in searches.items():
            started = time.perf_counter(), time.process_time()
            found[name] = search()
            seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    fastest = {name: [min(column) for column in zip(*values, strict=True)] for name, values in seconds.items()}
    for name, (wall, cores) in fastest.items():
        print(f"{name:14s} {wall:8.1f} s  {cores:8.1f} s of all cores")
    ratios = [ours / theirs for ours, theirs in zip(*fastest.values(), strict=True)]
    print(f"ratio {ratios[0]:.2f}, of all cores {ratios[1]:.2f}")
    same = [len(np.intersect1d(one, other)) for one, other in zip(*found.values(), strict=True)]
    print(f"the same neighbours: {100 * sum(same) / found['hvt_jax'].size:.3f} %")


if __name__ == "__main__":
    main()
