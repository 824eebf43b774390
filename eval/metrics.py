"""Ranking metrics for one held-out item per user, over the full catalogue, with bootstrap intervals.

With a single relevant item every metric is a function of the rank at which it was found: Recall@K is 1 for a
rank up to K (equal to the hit rate), NDCG@K is 1 / log2(rank + 1) up to K (Jarvelin and Kekalainen 2002, with
an ideal gain of 1), the reciprocal rank is 1 / rank within the list.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from eval.results import Interval

METRICS = ("recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr")

RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class ListFigures(TypedDict):
    """Figures of a set of lists, named as in `eval.results.Result`."""

    users: int
    k: int
    metrics: dict[str, Interval]
    invalid_rate: float
    duplicates: int


def measure(
    items: npt.NDArray[np.integer], targets: npt.NDArray[np.integer], *, catalogue: int, seed: int
) -> ListFigures:
    """All figures of a set of lists.

    Args:
        items: ``[N, k]``, best first.
        targets: ``[N]``.
        catalogue: Number of items.
        seed: Seed of the bootstrap.
    """
    users, k = items.shape
    ordered = np.sort(items, axis=1)
    return ListFigures(
        users=users,
        k=k,
        metrics=metrics_with_intervals(ranks_of(items, targets), k, seed),
        invalid_rate=float(((items < 0) | (items >= catalogue)).mean()),
        duplicates=int((ordered[:, 1:] == ordered[:, :-1]).any(axis=1).sum()),
    )


def ranks_of(items: npt.NDArray[np.integer], targets: npt.NDArray[np.integer]) -> Ints:
    """Rank of each user's target, from 1; 0 where the list does not hold it.

    Args:
        items: ``[N, k]``, best first.
        targets: ``[N]``.
    """
    found = items == targets[:, None]  # [N, k]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int64)


def values_by_rank(k: int) -> Floats:
    """What each rank is worth: ``[k + 1, metrics]`` in the order of `METRICS`; row 0 is a miss."""
    rank = np.arange(1, k + 1, dtype=np.float64)
    gain = 1 / np.log2(rank + 1)
    columns = [(rank <= 1), (rank <= 5), (rank <= 10), gain * (rank <= 5), gain * (rank <= 10), 1 / rank]
    table = np.zeros((k + 1, len(METRICS)))
    table[1:] = np.stack(columns, axis=1)
    return table


def metrics_with_intervals(ranks: Ints, k: int, seed: int) -> dict[str, Interval]:
    """Mean of every metric over the users, with its 95 % percentile bootstrap interval.

    Users are drawn with replacement. As a user counts by rank alone, drawing N users is drawing how many fall
    on each rank: one multinomial row per resample instead of N draws.

    Args:
        ranks: ``[N]``, 0 to k.
        k: Length of the lists.
        seed: Seed of the resamples.
    """
    counts = np.bincount(ranks, minlength=k + 1)
    values = values_by_rank(k)
    drawn = np.random.default_rng(seed).multinomial(len(ranks), counts / len(ranks), size=RESAMPLES)
    low, high = np.percentile(drawn @ values / len(ranks), _PERCENTILES, axis=0)  # [metrics] each
    mean = counts @ values / len(ranks)
    return {
        name: Interval(value=float(mean[at]), low=float(low[at]), high=float(high[at]))
        for at, name in enumerate(METRICS)
    }


def mean_with_interval(values: Floats, seed: int) -> Interval:
    """Mean of ``[N]`` ``values`` with its 95 % percentile bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), _PERCENTILES)
    return Interval(value=float(values.mean()), low=float(low), high=float(high))
