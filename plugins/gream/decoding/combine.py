"""Several chains of one user made into one list of items: the item's probability, averaged over the chains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gream.errors import GreamError


def combine_chains(
    items: npt.NDArray[np.integer], scores: npt.NDArray[np.floating], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The ``k`` best items of one user over ``m`` chains.

    With chains c_1 .. c_m drawn from the model, log 1/m sum_j p(item | c_j) estimates the item's log-probability with
    the chain summed out. It is the log-sum-exp of the scores over chains, less log m. A chain whose list lacks an item
    adds nothing to it, so that the value is a lower bound, the tighter the longer the lists are. The order of the
    chains does not matter; items of equal score come lower number first.

    Args:
        items: ``[m, w]``, the list of each chain; distinct within a row.
        scores: ``[m, w]``, log-probability of the item's id given the chain.
        k: Items wanted, at most w.

    Returns:
        Items int64 ``[k]``, best first, and scores float32 ``[k]``.

    Raises:
        GreamError: The shapes differ, or ``k`` is not 1 to w.
    """
    if items.ndim != 2 or items.shape != scores.shape or items.shape[0] == 0:
        raise GreamError(
            f"chains to combine have items {items.shape} and scores {scores.shape}; one shape [m, w] needed"
        )
    if not 1 <= k <= items.shape[1]:
        raise GreamError(f"a list of {k} items from lists of {items.shape[1]}: 1 to {items.shape[1]} can be made")
    # Sorted by score, so that floating-point sums do not depend on the order of the chains.
    order = np.argsort(scores, axis=None)
    distinct, at = np.unique(items.reshape(-1)[order], return_inverse=True)
    total = np.full(len(distinct), -np.inf)
    np.logaddexp.at(total, at, scores.reshape(-1)[order].astype(np.float64))
    best = np.argsort(-total, kind="stable")[:k]
    return distinct[best].astype(np.int64), (total[best] - np.log(len(items))).astype(np.float32)
