"""Residual k-means at the paper's scale, and balanced k-means against ``k-means-constrained`` on a smaller problem.

    OMP_NUM_THREADS=2 python scripts/bench/kmeans.py     (needs: pip install k-means-constrained)

Both sides of the comparison get the same points, the same number of starts and the same bounds on cluster sizes. A
min-cost flow takes minutes per start on the large problem, so that one is ours alone.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from gream.semantic_ids.kmeans import fit_residual_kmeans

# Points, dimensions, clusters.
SMALL = ((2000, 64, 32), (3000, 128, 64), (1000, 32, 200), (1500, 16, 16), (2000, 64, 32))


def points(n: int, d: int, seed: int = 0) -> Any:
    """Float32 ``[n, d]`` of 1,024 groups below 64 groups of unequal size, with a falling spectrum."""
    random = np.random.default_rng(seed)
    scale = (1 + np.arange(d)) ** -0.5
    top, below = random.normal(size=(64, d)), 0.7 * random.normal(size=(1024, d))
    parent = random.choice(64, size=1024, p=random.dirichlet(np.full(64, 0.7)))
    group = random.choice(1024, size=n)
    return ((top[parent[group]] + below[group] + 0.7 * random.normal(size=(n, d))) * scale).astype(np.float32)


def main() -> None:
    """Print times, errors and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--dimensions", type=int, default=2_560)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=10, help="Lloyd iterations, rough and precise each.")
    parser.add_argument("--seed", type=int, default=0, help="Of all points and all starts; other figures, same claim.")
    arguments = parser.parse_args()

    large = points(arguments.items, arguments.dimensions, arguments.seed)
    start = time.perf_counter()
    codebook, codes = fit_residual_kmeans(
        large, (256,) * 4, seed=arguments.seed, restarts=arguments.restarts, iterations=arguments.iterations
    )
    seconds = time.perf_counter() - start
    print(f"{arguments.items} x {arguments.dimensions}, 256 x 4, {arguments.restarts} starts: {seconds:.1f} s")
    for level, centroids in enumerate(codebook.centroids):
        large -= centroids[codes[:, level]]
        sizes = np.bincount(codes[:, level], minlength=256)
        print(f"  level {level + 1}: SSE {(large**2).sum(dtype=np.float64):.1f}, sizes {sizes.min()} to {sizes.max()}")

    from k_means_constrained import KMeansConstrained

    ratios = []
    for number, (n, d, k) in enumerate(SMALL):
        small = points(n, d, arguments.seed + number)
        start = time.perf_counter()
        oracle = KMeansConstrained(k, size_min=n // k, size_max=-(-n // k), n_init=4, random_state=arguments.seed).fit(
            small
        )
        theirs = time.perf_counter() - start
        start = time.perf_counter()
        codebook, codes = fit_residual_kmeans(
            small, (k,), seed=arguments.seed, restarts=4, iterations=arguments.iterations
        )
        ours = time.perf_counter() - start
        error = float(((small - codebook.centroids[0][codes[:, 0]]) ** 2).sum(dtype=np.float64))
        exact = float(((small - oracle.cluster_centers_[oracle.labels_]) ** 2).sum(dtype=np.float64))
        ratios.append(error / exact)
        print(
            f"{n} x {d}, {k} clusters: ours {ours:.2f} s, SSE {error:.1f}; k-means-constrained {theirs:.2f} s, "
            f"SSE {exact:.1f}; time 1/{theirs / ours:.1f}, SSE x {ratios[-1]:.4f}"
        )
    print(f"geometric mean of the SSE ratios: {np.exp(np.mean(np.log(ratios))):.4f}")


if __name__ == "__main__":
    main()
