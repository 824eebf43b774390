"""Residual k-means of a million items on one GPU, beside NumPy on a tenth of the items in the same run.

On one GPU it is called without arguments; ``--device cpu --items 4000 --dimensions 32 --codes 16`` takes the same path
anywhere.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from gream.semantic_ids.kmeans import fit_residual_kmeans


def main() -> None:
    """Print seconds, error and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=1_024)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--restarts", type=int, default=1)
    arguments = parser.parse_args()

    random = np.random.default_rng(0)
    centres = random.normal(size=(4 * arguments.codes, arguments.dimensions)).astype(np.float32)
    points = centres[random.integers(len(centres), size=arguments.items)]
    points += random.standard_normal(points.shape, dtype=np.float32)
    seconds = []
    for device, part in ((arguments.device, points), (None, points[: len(points) // 10])):
        start = time.perf_counter()
        codebook, codes = fit_residual_kmeans(
            part, (arguments.codes,) * 4, seed=0, restarts=arguments.restarts, device=device
        )
        seconds.append(time.perf_counter() - start)
        residual = part - sum(level[codes[:, i]] for i, level in enumerate(codebook.centroids))
        share = float((residual**2).sum(dtype=np.float64) / (part**2).sum(dtype=np.float64))
        print(f"{device or 'numpy'}: {part.shape}, {seconds[-1]:.1f} s, reconstruction error {share:.4f}", flush=True)
    print(f"items per second against NumPy: x {10 * seconds[1] / seconds[0]:.1f}")
    if arguments.device.startswith("cuda"):
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
