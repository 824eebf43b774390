"""Baselines that are counted, not trained, on the same split: popularity, item neighbours, a Markov chain over items.

All count the interactions they are given only, and all break ties by popularity and then by the lower item, so that
their lists are determined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gream.engine.fusion import top_k

# Users whose scores over the whole catalogue are held at once.
_USERS_AT_ONCE = 1024

Histories = Sequence[Sequence[int]]
Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
# From B histories to scores ``[B, items]``.
Score = Callable[[Histories], npt.NDArray[np.float64]]
# A baseline, from training interactions (see `rank_by`) and the size of the catalogue.
Counted = Callable[[npt.NDArray[np.int64], int], Score]


def rank_by(
    counted: Counted,
    train: npt.NDArray[np.int64],
    items: int,
    histories: Histories,
    k: int,
    *,
    allow_history: bool = False,
) -> Ranking:
    """The items of highest score after each history, as a baseline counts it.

    Args:
        counted: The baseline.
        train: int64 ``[2, M]``, user and item of each training interaction, each user's in order of time.
        items: Size of the catalogue.
        histories: N lists of items, oldest first.
        k: Items per list.
        allow_history: Whether lists may hold what the history holds.

    Returns:
        Items int64 ``[N, k]`` and scores float32 ``[N, k]``.
    """
    return rank_histories(counted(train, items), popularity_of(train, items), histories, k, allow_history=allow_history)


def popularity(train: npt.NDArray[np.int64], items: int) -> Score:
    """The most popular items: a score is the number of training interactions."""
    counts = popularity_of(train, items)
    return lambda batch: np.tile(counts, (len(batch), 1))


def cooccurrence(train: npt.NDArray[np.int64], items: int) -> Score:
    """Items that training users had together with those of the history: item-based nearest neighbours (item-kNN).

    Two items are as similar as the cosine between the sets of their training users; an item's score is the
    sum of its similarities to the items of the history (Deshpande and Karypis 2004, without truncating
    neighbours).
    """
    had = sp.csr_array((np.ones(train.shape[1]), (train[0], train[1])), shape=(int(train[0].max()) + 1, items))
    had.data[:] = 1.0  # repeated interactions were summed on the way
    norm = sp.diags_array(1 / np.sqrt(np.maximum(had.sum(axis=0), 1)))
    similarity = sp.csr_array(norm @ (had.T @ had) @ norm)
    return lambda batch: (_had(batch, items) @ similarity).toarray()


def markov_chain(train: npt.NDArray[np.int64], items: int) -> Score:
    """Items that followed the last item of the history: a first-order Markov chain over items.

    The score is the maximum-likelihood estimate of p(next item | last item), counted over neighbours in training
    sequences and not smoothed.
    """
    followed = steps(train, items)
    chance = sp.csr_array(sp.diags_array(1 / np.maximum(followed.sum(axis=1), 1)) @ followed)
    return lambda batch: chance[[history[-1] for history in batch]].toarray()


def steps(train: npt.NDArray[np.int64], items: int) -> sp.csr_array:
    """How often an item followed another one directly in a training sequence, ``[items, items]``."""
    same_user = train[0, 1:] == train[0, :-1]
    before, after = train[1, :-1][same_user], train[1, 1:][same_user]
    return sp.csr_array((np.ones(len(before)), (before, after)), shape=(items, items))


def rank_histories(
    score: Score,
    popularity: npt.NDArray[np.float64],
    histories: Histories,
    k: int,
    *,
    allow_history: bool = False,
) -> Ranking:
    """The items of highest score, ties to the more popular, then to the lower item.

    Args:
        score: From B histories to scores ``[B, items]``.
        popularity: ``[items]``.
        histories: N lists of items.
        k: Items per list; the whole catalogue where it is smaller.
        allow_history: Whether lists may hold what the history holds.

    Returns:
        Items int64 ``[N, k]`` and scores float32 ``[N, k]``. Unless allowed, what the history holds comes last, at
        minus infinity: it is in the list only where the catalogue holds too little else to fill it.
    """
    k = min(k, len(popularity))
    first = popular_first(popularity)
    ranked, scores = [], []
    for start in range(0, len(histories), _USERS_AT_ONCE):
        batch = histories[start : start + _USERS_AT_ONCE]
        values = score(batch)  # [B, items]
        if not allow_history:
            values[places(batch)] = -np.inf
        best = first[top_k(values[:, first], k)]
        ranked.append(best)
        scores.append(np.take_along_axis(values, best, axis=1).astype(np.float32))
    return np.concatenate(ranked), np.concatenate(scores)


def ndcg_gain(
    scores: npt.NDArray[np.floating[Any]],
    targets: npt.NDArray[np.integer[Any]],
    histories: Histories,
    *,
    allow_history: bool = False,
) -> float:
    """NDCG@10, summed over B users; ties count against the list.

    Args:
        scores: ``[B, items]``; overwritten.
        targets: ``[B]``.
        histories: B lists of items.
        allow_history: Whether lists may hold what the history holds.
    """
    wanted = targets.astype(np.int64)[:, None]
    own = np.take_along_axis(scores, wanted, axis=1)
    if not allow_history:
        scores[places(histories)] = -np.inf
        np.put_along_axis(scores, wanted, own, axis=1)  # users may meet an item again
    rank = (scores >= own).sum(axis=1)
    return float((1 / np.log2(rank + 1.0))[rank <= 10].sum())


def popularity_of(train: npt.NDArray[np.int64], items: int) -> npt.NDArray[np.float64]:
    """Training interactions of each item, ``[items]``."""
    return np.bincount(train[1], minlength=items).astype(np.float64)


def popular_first(popularity: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """All items, the most popular one first, ties to the lower item.

    Args:
        popularity: See `popularity_of`.
    """
    return np.argsort(-popularity, kind="stable")


def places(histories: Histories) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of every item of every history."""
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    return row, np.fromiter((item for history in histories for item in history), dtype=np.int64, count=len(row))


def _had(histories: Histories, items: int) -> sp.csr_array:
    """How often each history holds each item, ``[B, items]``."""
    at = places(histories)
    return sp.csr_array((np.ones(len(at[0])), at), shape=(len(histories), items))
