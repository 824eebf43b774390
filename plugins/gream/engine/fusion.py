"""A model's log-probabilities and scores of items from elsewhere, added: candidates of both sides, each with both.

A candidate's score is the log-probability of its id plus a weight times its item score. Candidates are the items that
the model's search found and those of the highest item scores; of the latter the model is asked for the log-probability
as well (`gream.decoding.beam`), so that no candidate lacks either part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gream.engine.engine import Query

# From B queries to scores of all items, ``[B, items]``; the array may be written to.
ItemScores = Callable[["Sequence[Query]"], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Candidates:
    """What a list is made of, no item twice.

    Attributes:
        items: int64 ``[c]``.
        logs: float64 ``[c]``, log-probability of each item's id; -inf where the search did not come to it.
        scores: float64 ``[c]``, item scores.
        found: bool ``[c]``, whether the model's own search found the item.
        place: int64 ``[c]``, from 0, in the list that item scores alone make; -1 where they did not bring it in.
    """

    items: npt.NDArray[np.int64]
    logs: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    found: npt.NDArray[np.bool_]
    place: npt.NDArray[np.int64]

    def fused(self, weight: float) -> npt.NDArray[np.float64]:
        """Score of each candidate, ``[c]``."""
        return self.logs + weight * self.scores

    def best(self, weight: float, k: int) -> npt.NDArray[np.int64]:
        """Places of the ``k`` candidates of highest score, best first; ties to the lower item."""
        return np.lexsort((self.items, -self.fused(weight)))[:k]

    def by_model(self, k: int) -> npt.NDArray[np.int64]:
        """Items of the model's own list."""
        own = np.flatnonzero(self.found)
        return self.items[own[np.lexsort((self.items[own], -self.logs[own]))[:k]]]

    def by_scores(self, k: int) -> npt.NDArray[np.int64]:
        """Items of the list that item scores alone make."""
        own = np.flatnonzero(self.place >= 0)
        return self.items[own[np.argsort(self.place[own])[:k]]]


@dataclass(frozen=True)
class Fusion:
    """Item scores to be added.

    Attributes:
        scores: See `ItemScores`.
        first: int64 ``[items]``, all items; of equal scores the one that stands first here comes first.
        weight: What item scores count for.
    """

    scores: ItemScores
    first: npt.NDArray[np.int64]
    weight: float


def top_k(scores: npt.NDArray[np.floating[Any]], k: int) -> npt.NDArray[np.int64]:
    """Columns of the ``k`` largest values of each row, largest first, ties to the lower column: int64 ``[N, k]``."""
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k, None]  # the k-th largest
    above, level = scores > kth, scores == kth
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (level.cumsum(axis=1) <= room))  # exactly k per row
    columns = np.nonzero(chosen)[1].reshape(-1, k)  # ascending within a row
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
