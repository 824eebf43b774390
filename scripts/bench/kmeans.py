"""Residual k-means at the paper's scale, and balanced k-means against ``k-means-constrained`` on smaller problems.

    pip install k-means-constrained
    PYTHONPATH=. OMP_NUM_THREADS=2 python scripts/bench/kmeans.py [--seeds 1 2 3] [--data FOLDER]

Both sides of the comparison get the same points, the same number of starts and the same bounds on cluster sizes. A
min-cost flow takes minutes per start on the large problem, so that one is ours alone. ``--data`` adds the texts of real
items, FOLDER/Beauty/Beauty.item.json.gz, as LSA makes vectors of them, one problem per seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from gream.files import read_json
from gream.semantic_ids.collisions import resolve_collisions
from gream.semantic_ids.kmeans import fit_residual_kmeans

# Points, dimensions, clusters.
SMALL = ((2000, 64, 32), (3000, 128, 64), (1000, 32, 200), (1500, 16, 16), (2000, 64, 32))
TEXTS = (2000, 64, 32)


def points(n: int, d: int, seed: int = 0) -> Any:
    """Float32 ``[n, d]`` of 1,024 groups below 64 groups of unequal size, with a falling spectrum."""
    random = np.random.default_rng(seed)
    scale = (1 + np.arange(d)) ** -0.5
    top, below = random.normal(size=(64, d)), 0.7 * random.normal(size=(1024, d))
    parent = random.choice(64, size=1024, p=random.dirichlet(np.full(64, 0.7)))
    group = random.choice(1024, size=n)
    return ((top[parent[group]] + below[group] + 0.7 * random.normal(size=(n, d))) * scale).astype(np.float32)


def texts(folder: Path) -> Any:
    """Float32 ``[items, d]``, LSA of the titles and categories of Beauty."""
    from data_processing.encoders.lsa import LsaEncoder
    from data_processing.tables import Item

    items = read_json(folder / "Beauty" / "Beauty.item.json.gz", remedy="download it again")
    catalogue = []
    for number in range(len(items)):
        item = items[str(number)]
        categories = tuple(part for path in item["categories"] or [] for part in path)
        catalogue.append(Item(item["title"], "", "", categories[-1] if categories else "", categories))
    return LsaEncoder.fit(catalogue, TEXTS[1], 42, source="Beauty").encode(catalogue)


def main() -> None:
    """Print times, errors and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_101, help="Of the large problem; 0: without it.")
    parser.add_argument("--dimensions", type=int, default=2_560)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="The large problem only.")
    parser.add_argument("--sample", type=int, help="Fit to so many items, and assign all of them once.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Of all points and all starts.")
    parser.add_argument("--data", type=Path, help="Folder of data sets.")
    arguments = parser.parse_args()
    if arguments.items:
        seed = arguments.seeds[0]
        large = points(arguments.items, arguments.dimensions, seed)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of what follows alone
        start, used = time.perf_counter(), time.process_time()
        sizes = (arguments.size,) * arguments.levels
        codebook, codes = fit_residual_kmeans(
            large, sizes, seed=seed, restarts=arguments.restarts, sample=arguments.sample
        )
        seconds = time.perf_counter() - start
        fitted = f"a sample of {arguments.sample}" if arguments.sample else "all"
        shape = f"{arguments.items} x {arguments.dimensions}, {arguments.size} x {arguments.levels}"
        cpu = time.process_time() - used
        print(f"{shape}, fitted to {fitted}: {seconds:.1f} s, {cpu:.1f} s of CPU")
        start = time.perf_counter()
        ids = resolve_collisions(codes, large, codebook, "reassign")
        moved = int((ids != codes).any(axis=1).sum())
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(f"  {moved} of them moved to be unique: {time.perf_counter() - start:.1f} s; peak {peak.split()[1]} kB")
        for level, centroids in enumerate(codebook.centroids):
            large -= centroids[codes[:, level]]
            counts = np.bincount(codes[:, level], minlength=arguments.size)
            error = (large**2).sum(dtype=np.float64)
            print(f"  level {level + 1}: SSE {error:.1f}, sizes {counts.min()} to {counts.max()}", flush=True)
    if arguments.alone:
        return

    try:
        from k_means_constrained import KMeansConstrained
    except ModuleNotFoundError:
        parser.error("the oracle is missing: pip install k-means-constrained")

    problems = [
        (seed, f"{n} x {d}", k, points(n, d, seed + number))
        for seed in arguments.seeds
        for number, (n, d, k) in enumerate(SMALL)
    ]
    if arguments.data:
        vectors = texts(arguments.data)
        n, d, k = TEXTS
        for seed in arguments.seeds:
            rows = np.random.default_rng(seed).choice(len(vectors), size=n, replace=False)
            problems.append((seed, f"{n} x {d}, texts", k, vectors[rows]))
    ratios = []
    for seed, name, k, small in problems:
        n = len(small)
        start = time.perf_counter()
        oracle = KMeansConstrained(k, size_min=n // k, size_max=-(-n // k), n_init=4, random_state=seed).fit(small)
        theirs = time.perf_counter() - start
        start = time.perf_counter()
        codebook, codes = fit_residual_kmeans(small, (k,), seed=seed, restarts=4)
        ours = time.perf_counter() - start
        error = float(((small - codebook.centroids[0][codes[:, 0]]) ** 2).sum(dtype=np.float64))
        exact = float(((small - oracle.cluster_centers_[oracle.labels_]) ** 2).sum(dtype=np.float64))
        ratios.append(error / exact)
        print(
            f"seed {seed}, {name}, {k} clusters: ours {ours:.2f} s, SSE {error:.1f}; k-means-constrained "
            f"{theirs:.2f} s, SSE {exact:.1f}; time 1/{theirs / ours:.1f}, SSE x {ratios[-1]:.4f}",
            flush=True,
        )
    print(
        f"SSE ratios of {len(ratios)} problems: geometric mean {np.exp(np.mean(np.log(ratios))):.4f}, "
        f"{min(ratios):.4f} to {max(ratios):.4f}, {sum(ratio > 1 for ratio in ratios)} above 1"
    )


if __name__ == "__main__":
    main()
