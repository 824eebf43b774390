"""Ranking metrics for one held-out item per user, over the full catalogue, with bootstrap intervals.

With a single relevant item every metric is a function of the rank at which it was found: Recall@K is 1 for a
rank up to K and so is the hit rate, Precision@K is 1 / K, NDCG@K is 1 / log2(rank + 1) up to K (Jarvelin and
Kekalainen 2002, with an ideal gain of 1), the reciprocal rank is 1 / rank up to 10. What lists are worth
beside accuracy, whom they serve and what they repeat, is in `exposure_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from .results import Exposure, Interval

# Cut-offs that every evaluation has, and so every table and comparison.
CUTOFFS = (1, 5, 10)


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> tuple[str, ...]:
    """Names of the metrics at ``cutoffs``, which begin with 1."""
    return (
        *(f"recall@{cutoff}" for cutoff in cutoffs),
        *(f"ndcg@{cutoff}" for cutoff in cutoffs[1:]),
        "mrr",
        *(f"hit@{cutoff}" for cutoff in cutoffs),
        *(f"precision@{cutoff}" for cutoff in cutoffs),
    )


def cutoffs_with(more: Sequence[int] | None) -> tuple[int, ...]:
    """The usual cut-offs and ``more``, ascending."""
    return tuple(sorted({*CUTOFFS, *(more or ())}))


METRICS = metric_names()
# What tables show; the rest follows from it.
SHOWN = METRICS[: METRICS.index("mrr") + 1]

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
    items: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer],
    *,
    catalogue: int,
    seed: int,
    cutoffs: Sequence[int] = CUTOFFS,
) -> ListFigures:
    """All figures of a set of lists.

    Args:
        items: ``[N, k]``, best first.
        targets: ``[N]``.
        catalogue: Number of items.
        seed: Seed of the bootstrap.
        cutoffs: Lengths at which lists are measured, from 1 on.
    """
    users, k = items.shape
    ordered = np.sort(items, axis=1)
    return ListFigures(
        users=users,
        k=k,
        metrics=metrics_with_intervals(ranks_of(items, targets), k, seed, cutoffs),
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


def values_by_rank(k: int, cutoffs: Sequence[int] = CUTOFFS) -> Floats:
    """What each rank is worth: ``[k + 1, metrics]`` in the order of `metric_names`; row 0 is a miss.

    The reciprocal rank counts up to the last of the cut-offs that all evaluations have, so that longer lists have no
    other one.
    """
    rank = np.arange(1, k + 1, dtype=np.float64)
    hit = [(rank <= cutoff).astype(np.float64) for cutoff in cutoffs]
    gains = [inside / np.log2(rank + 1) for inside in hit[1:]]
    precision = [inside / cutoff for inside, cutoff in zip(hit, cutoffs, strict=True)]
    columns = [*hit, *gains, (rank <= CUTOFFS[-1]) / rank, *hit, *precision]
    return np.concatenate([np.zeros((1, len(columns))), np.stack(columns, axis=1)])


def metrics_with_intervals(ranks: Ints, k: int, seed: int, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Interval]:
    """Mean of every metric over the users, with its 95 % percentile bootstrap interval.

    Users are drawn with replacement. As a user counts by rank alone, drawing N users is drawing how many fall
    on each rank: one multinomial row per resample instead of N draws.

    Args:
        ranks: ``[N]``, 0 to k.
        k: Length of the lists.
        seed: Seed of the resamples.
        cutoffs: Lengths at which lists are measured, from 1 on.
    """
    counts = np.bincount(ranks, minlength=k + 1)
    values = values_by_rank(k, cutoffs)
    drawn = np.random.default_rng(seed).multinomial(len(ranks), counts / len(ranks), size=RESAMPLES)
    low, high = np.percentile(drawn @ values / len(ranks), _PERCENTILES, axis=0)  # [metrics] each
    mean = counts @ values / len(ranks)
    return {
        name: Interval(value=float(mean[at]), low=float(low[at]), high=float(high[at]))
        for at, name in enumerate(metric_names(cutoffs))
    }


def exposure_of(
    items: npt.NDArray[np.integer], train: npt.NDArray[np.integer], histories: Sequence[Sequence[int]], catalogue: int
) -> Exposure:
    """How lists spread over the catalogue.

    Args:
        items: ``[N, k]``, best first; items that do not exist are left out.
        train: ``[2, M]``, user and item of each training interaction.
        histories: N lists of items, none empty.
        catalogue: Number of items.
    """
    real = (items >= 0) & (items < catalogue)
    shown = np.bincount(items[real], minlength=catalogue)  # [catalogue]
    popularity = np.bincount(train[1], minlength=catalogue).astype(np.float64)
    # Laplace's rule keeps the information of an item that nobody has in training finite.
    share = (popularity + 1) / (len(np.unique(train[0])) + 2)
    each = np.where(real, popularity[np.where(real, items, 0)], 0.0)
    of_lists = each.sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    of_histories = np.array([popularity[list(history)].mean() for history in histories])
    return Exposure(
        coverage=float((shown > 0).mean()),
        gini=_gini(shown),
        novelty=float(shown @ -np.log2(share) / max(shown.sum(), 1)),
        popularity=float(of_lists.mean()),
        popularity_lift=float(of_lists.mean() / of_histories.mean() - 1),
    )


def _gini(counts: Ints) -> float:
    """Gini coefficient of ``[n]`` counts: 0 where all are equal, (n - 1) / n where one has everything."""
    n, total = len(counts), int(counts.sum())
    place = np.arange(1, n + 1)
    return float((2 * place - n - 1) @ np.sort(counts) / (n * total)) if total else 0.0


def pass_at_k(hits: npt.NDArray[np.integer], n: int, k: int) -> Floats:
    """Unbiased estimate of the chance that one of ``k`` sampled answers hits: 1 - C(n-c, k) / C(n, k), ``[N]``.

    Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Args:
        hits: ``[N]``, how many of a user's answers hit: c.
        n: Answers of each user, drawn independently.
        k: Answers looked at, 1 to ``n``.

    Raises:
        GreamError: ``k`` is not 1 to ``n``, or more answers hit than there are.
    """
    if not 1 <= k <= n:
        raise GreamError(f"pass@{k} of {n} answers: 1 to {n} can be estimated")
    if len(hits) and not (hits.min() >= 0 and hits.max() <= n):
        raise GreamError(f"between {hits.min()} and {hits.max()} of {n} answers hit: 0 to {n} are possible")
    return np.array([1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)])[hits]


def mean_with_interval(values: Floats, seed: int) -> Interval:
    """Mean of ``[N]`` ``values`` with its 95 % percentile bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), _PERCENTILES)
    return Interval(value=float(values.mean()), low=float(low), high=float(high))
