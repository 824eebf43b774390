"""Residual k-means of a million items on one GPU, beside NumPy on a tenth of the items in the same run.

On one GPU it is called without arguments; ``--device cpu --items 4000 --dimensions 32 --codes 16`` takes the same path
anywhere. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
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

    torch.zeros(1, device=arguments.device)  # a missing device shows before gigabytes of points are made
    random = np.random.default_rng(0)
    centres = random.normal(size=(4 * arguments.codes, arguments.dimensions)).astype(np.float32)
    points = centres[random.integers(len(centres), size=arguments.items)]
    points += random.standard_normal(points.shape, dtype=np.float32)
    seconds, errors = [], []
    for device, part in ((arguments.device, points), (None, points[: len(points) // 10])):
        start = time.perf_counter()
        codebook, codes = fit_residual_kmeans(
            part, (arguments.codes,) * 4, seed=0, restarts=arguments.restarts, device=device
        )
        seconds.append(time.perf_counter() - start)
        residual = part - sum(level[codes[:, i]] for i, level in enumerate(codebook.centroids))
        errors.append(float((residual**2).sum(dtype=np.float64) / (part**2).sum(dtype=np.float64)))
        print(f"{device or 'numpy'}: {part.shape}, {seconds[-1]:.1f} s, error {errors[-1]:.4f}", flush=True)
    result = {
        "items": arguments.items,
        "dimensions": arguments.dimensions,
        "codes": [arguments.codes] * 4,
        "seconds": round(seconds[0], 2),
        "reconstruction_error": round(errors[0], 4),
        "numpy_seconds_for_a_tenth": round(seconds[1], 2),
        "numpy_reconstruction_error": round(errors[1], 4),
        "times_numpys_items_per_second": round(10 * seconds[1] / seconds[0], 1),
    }
    if arguments.device.startswith("cuda"):
        result["gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
