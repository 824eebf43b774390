"""The order in which rows are trained on, and how many steps of its chain each reasoning row shows."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from gream.dialogue import STEPS

from ..config import CurriculumConfig

Ints = npt.NDArray[np.int64]

# Steps of the curriculum whose rows are sorted together: enough that little is padded, and so few that the share of
# reasoning rows keeps its course.
CURRICULUM_STRETCH = 10

# Of the official implementation's reasoning rows, so large a share comes after all others, in one block.
OFFICIAL_TAIL = 0.47


def training_order(config: CurriculumConfig, alignment: int, reasoning: int, seed: int) -> Ints:
    """Which row comes when: alignment rows are numbers from 0, reasoning rows go on after them.

    Rows of either kind keep their order, but for the schedule ``shuffled``.

    Args:
        config: Names the schedule.
        alignment: How many alignment rows there are.
        reasoning: How many reasoning rows there are.
        seed: Of the schedule ``shuffled``.
    """
    if config.schedule == "shuffled":
        order = array("q", range(alignment + reasoning))
        random.Random(f"{seed} order").shuffle(order)
        return np.asarray(order)
    tail = round(OFFICIAL_TAIL * reasoning) if config.schedule == "official" else 0
    merged = _ramp(alignment, reasoning - tail)
    return np.concatenate([merged, np.arange(alignment + reasoning - tail, alignment + reasoning)])


def _ramp(alignment: int, reasoning: int) -> Ints:
    """Merge two kinds so that the share of the second grows evenly from the first row to the last.

    With m the overall share of reasoning, its share at progress t in 0..1 is m + a (2t - 1), a = min(m, 1 - m): from
    nothing, or to everything, by a straight line.
    """
    total = alignment + reasoning
    if not alignment or not reasoning:
        return np.arange(total)
    mean = reasoning / total
    slope = min(mean, 1 - mean)
    grid = np.linspace(0, 1, 4 * total + 1)
    lift = grid**2  # integral of slope * (2t - 1)
    lift -= grid
    lift *= slope

    def times(share: float, sign: int, rows: int) -> npt.NDArray[np.float64]:
        """When the rows of a kind come, of which (share * t + sign * lift) / share have come at progress t."""
        passed = share * grid
        passed += sign * lift
        passed /= share
        return np.interp((np.arange(rows) + 0.5) / rows, passed, grid)

    order: Ints = np.argsort(np.concatenate([times(1 - mean, -1, alignment), times(mean, 1, reasoning)]), kind="stable")
    return order


def steps_shown(config: CurriculumConfig, reasoning: int) -> Ints:
    """How many steps of its chain each reasoning row shows, in training order.

    Over the first ``growth`` of the rows one step is added at a time, at even distances; the others show all.

    Args:
        config: Names the growth.
        reasoning: How many reasoning rows there are.
    """
    growing = config.growth * reasoning
    rows = np.arange(reasoning)
    reached = 1 + ((STEPS - 1) * rows / max(growing, 1)).astype(np.int64)
    return np.where(rows < growing, np.minimum(reached, STEPS), STEPS)


def reasoning_share(order: Ints, alignment: int, points: int = 100) -> list[tuple[float, float]]:
    """Share of reasoning rows along training, as (rows seen up to the middle of a window, share in it).

    Args:
        order: From `training_order`.
        alignment: How many alignment rows there are.
        points: Windows, of equal size but for rounding; fewer where there are fewer rows.
    """
    ends = np.unique(np.linspace(0, len(order), points + 1).round().astype(int)).tolist()
    return [((first + last) / 2, float((order[first:last] >= alignment).mean())) for first, last in pairwise(ends)]


def chained_stages(order: Ints, stages: int) -> list[Ints]:
    """The order cut into so many parts, equal but for one row, each a data set to be trained on after the one before.

    Args:
        order: From `training_order`.
        stages: How many; empty ones are left out.
    """
    ends = [round(stage * len(order) / stages) for stage in range(stages + 1)]
    return [order[first:last] for first, last in pairwise(ends) if first < last]


def like_length_order(lengths: Sequence[int], batch: int, random_: random.Random, stretch: int = 50) -> Ints:
    """Order in which each ``batch`` rows that follow each other are of like length, and batches come at random.

    The sampler that groups by length in transformers sorts its batches too, from long to short, again and again: a
    model made from nothing learns less that way (docs/sft.md).

    Args:
        lengths: Of each row, in any unit.
        batch: Rows per batch; what does not fill the last one comes at the end.
        random_: Draws the order of the batches.
        stretch: Batches that are sorted together: no row leaves the stretch in which it is.
    """
    order = array("q")
    for start in range(0, len(lengths), stretch * batch):
        rows = sorted(range(start, min(start + stretch * batch, len(lengths))), key=lengths.__getitem__)
        whole = len(rows) // batch * batch
        batches = [rows[first : first + batch] for first in range(0, whole, batch)]
        random_.shuffle(batches)
        order.extend([row for one in batches for row in one] + rows[whole:])
    return np.asarray(order)
