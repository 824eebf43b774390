"""Baselines on the same split: popularity, and item-to-item neighbours over training sequences.

Both count the training split only, both leave out what the user already has (no user meets an item twice in
this protocol), and both break ties by popularity and then by the lower item, so that their lists are
determined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

# Users whose scores over the whole catalogue are held at once.
_USERS_AT_ONCE = 1024

Ranking = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def rank_by_popularity(train: npt.NDArray[np.int64], items: int, histories: Sequence[Sequence[int]], k: int) -> Ranking:
    """The most popular items that a history does not hold.

    Args:
        train: int64 ``[2, M]``, user and item of each training interaction.
        items: Size of the catalogue.
        histories: N lists of items.
        k: Items per list.

    Returns:
        Items int64 ``[N, k]`` and scores float32 ``[N, k]``: the number of training interactions.
    """
    popularity = np.bincount(train[1], minlength=items).astype(np.float64)
    return _rank(lambda batch: np.tile(popularity, (batch.shape[0], 1)), popularity, histories, k)


def rank_by_cooccurrence(
    train: npt.NDArray[np.int64], items: int, histories: Sequence[Sequence[int]], k: int
) -> Ranking:
    """Items that training users had together with those of the history: item-based nearest neighbours.

    Two items are as similar as the cosine between the sets of their training users; an item's score is the
    sum of its similarities to the items of the history (Deshpande and Karypis 2004, without truncating
    neighbours).

    Args:
        train: int64 ``[2, M]``, user and item of each training interaction.
        items: Size of the catalogue.
        histories: N lists of items.
        k: Items per list.

    Returns:
        Items int64 ``[N, k]`` and scores float32 ``[N, k]``.
    """
    popularity = np.bincount(train[1], minlength=items).astype(np.float64)
    had = sp.csr_array((np.ones(train.shape[1]), (train[0], train[1])), shape=(int(train[0].max()) + 1, items))
    had.data[:] = 1.0  # repeated interactions were summed on the way
    norm = sp.diags_array(1 / np.sqrt(np.maximum(had.sum(axis=0), 1)))
    similarity = sp.csr_array(norm @ (had.T @ had) @ norm)
    return _rank(lambda batch: (batch @ similarity).toarray(), popularity, histories, k)


def top_k(scores: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    """Columns of the ``k`` largest values of each row, largest first, ties to the lower column: int64 ``[N, k]``."""
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k, None]  # the k-th largest
    above, level = scores > kth, scores == kth
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (level.cumsum(axis=1) <= room))  # exactly k per row
    columns = np.nonzero(chosen)[1].reshape(-1, k)  # ascending within a row
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _rank(
    score_users: Callable[[sp.csr_array], npt.NDArray[np.float64]],
    popularity: npt.NDArray[np.float64],
    histories: Sequence[Sequence[int]],
    k: int,
) -> Ranking:
    """Rank all items by ``score_users``, a function from histories ``[B, items]`` to scores ``[B, items]``."""
    items = len(popularity)
    k = min(k, items)
    popular_first = np.argsort(-popularity, kind="stable")
    ranked, scores = [], []
    for start in range(0, len(histories), _USERS_AT_ONCE):
        batch = histories[start : start + _USERS_AT_ONCE]
        row = np.repeat(np.arange(len(batch)), [len(history) for history in batch])
        column = np.fromiter((item for history in batch for item in history), dtype=np.int64, count=len(row))
        score = score_users(sp.csr_array((np.ones(len(row)), (row, column)), shape=(len(batch), items)))
        # What the user has comes last: left out, unless the catalogue holds too little else to fill the list.
        score[row, column] = -1.0
        best = popular_first[top_k(score[:, popular_first], k)]
        ranked.append(best)
        scores.append(np.take_along_axis(score, best, axis=1).astype(np.float32))
    return np.concatenate(ranked), np.concatenate(scores)
