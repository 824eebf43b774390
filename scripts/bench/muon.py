"""Muon's orthogonalisation on a CPU: in float32, as the plugin has it, against LLaMA-Factory's own in bfloat16.

OMP_NUM_THREADS=1 python scripts/bench/muon.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from llamafactory.third_party.muon.muon import zeropower_via_newtonschulz5
from llamafactory_gream.muon import orthogonalize
from torch import Tensor

# Matrices of the quickstart's model (width 128), of Beauty's from nothing (256), and of SmolLM2-135M (576).
SHAPES = ((128, 128), (128, 384), (256, 256), (256, 768), (576, 576), (576, 1536))
STEPS = 5


def milliseconds(call: Callable[[Tensor, int], Tensor], gradient: Tensor) -> float:
    """The fastest of five, of this process's own time."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        call(gradient, STEPS)
        taken.append(time.process_time() - began)
    return 1e3 * min(taken)


def main() -> None:
    """Print a line for each shape."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'matrix':>12} {'bfloat16, ms':>14} {'float32, ms':>12} {'ratio':>6} {'differ by':>10}")
    for rows, columns in SHAPES:
        gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
        theirs, ours = milliseconds(zeropower_via_newtonschulz5, gradient), milliseconds(orthogonalize, gradient)
        differ = (zeropower_via_newtonschulz5(gradient, STEPS) - orthogonalize(gradient, STEPS)).abs().max()
        print(f"{f'{rows} x {columns}':>12} {theirs:14.1f} {ours:12.1f} {theirs / ours:6.1f} {differ:10.4f}")


if __name__ == "__main__":
    main()
