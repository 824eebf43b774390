"""The order in which rows are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def ramp(direct: Sequence[T], reasoning: Sequence[T]) -> list[T]:
    """Merge two lists so that the share of the second grows evenly from the first row to the last.

    The order within each list is kept. With m the overall share of ``reasoning``, its share at progress t in 0..1 is
    m + a (2t - 1), a = min(m, 1 - m): from nothing, or to everything, by a straight line.
    """
    total = len(direct) + len(reasoning)
    if not direct or not reasoning:
        return [*direct, *reasoning]
    mean = len(reasoning) / total
    slope = min(mean, 1 - mean)
    grid = np.linspace(0, 1, 4 * total + 1)
    lift = slope * (grid**2 - grid)  # integral of slope * (2t - 1)
    times = np.concatenate(
        [
            np.interp((np.arange(len(direct)) + 0.5) / len(direct), ((1 - mean) * grid - lift) / (1 - mean), grid),
            np.interp((np.arange(len(reasoning)) + 0.5) / len(reasoning), (mean * grid + lift) / mean, grid),
        ]
    )
    both = [*direct, *reasoning]
    return [both[index] for index in np.argsort(times, kind="stable")]
