"""Assignment of points to clusters of equal size, by auction.

Points bid for the seats of their cheapest cluster (Bertsekas' auction for the transportation problem): a bid is as high
as the next best cluster makes worth while, a full cluster keeps its highest bids and its price rises to the lowest one
it kept, who is outbid bids again. With a least raise of e the total cost ends within n * e of the optimum that a
min-cost flow finds. All points without a seat bid at once, so a round is a few array operations.

Written against what NumPy 2 and PyTorch have in common: ``xp`` is either module, arrays live on one device.
"""

from __future__ import annotations

from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor

# Points whose costs are copied at once.
_CHUNK = 1 << 16


def assign_balanced(costs: Array, xp: Any, *, raise_by: float, rounds: int, prices: Array | None = None) -> Array:
    """Assign each point to a cluster such that sizes differ by one at most, at a low total cost.

    Args:
        costs: Floats ``[n, k]``; a constant added to a row changes nothing.
        xp: ``numpy`` or ``torch``.
        raise_by: Least raise of a bid, in units of ``costs``.
        rounds: Rounds of bids at most; whoever has no seat then takes the best that is left.
        prices: Of a seat in each cluster, ``[k]``, to start from: those of an assignment at similar costs save most of
            the rounds. Overwritten with those at the end. Zero by default.

    Returns:
        int64 ``[n]``. Ties go to the lower cluster and the lower point, so the result depends on the input alone.
    """
    n, k = costs.shape
    seats = _seats(costs, xp)
    device = costs.device
    everyone = xp.arange(n, device=device)
    assigned = xp.full((n,), -1, dtype=xp.int64, device=device)
    bids = xp.zeros((n,), dtype=costs.dtype, device=device)
    if prices is None:
        prices = xp.zeros((k,), dtype=costs.dtype, device=device)
    prices -= xp.amin(prices)
    free = everyone
    for _ in range(rounds):
        # Some points at a time: a copy of all costs would double the memory.
        parts = [_wishes(costs[free[at : at + _CHUNK]] + prices, xp) for at in range(0, len(free), _CHUNK)]
        wish, regret = (xp.concatenate(part) for part in zip(*parts, strict=True))
        bids[free] = prices[wish] + regret + raise_by
        assigned[free] = wish
        # Only clusters that someone has just bid for can change.
        asked = xp.zeros((k + 1,), dtype=xp.bool, device=device)
        asked[wish] = True
        bidders = everyone[asked[assigned]]  # -1 falls on the entry past the end, which is False
        order = bidders[_grouped_descending(assigned[bidders], bids[bidders], xp)]
        rank, limit = _rank(assigned[order], k, xp), seats[assigned[order]]
        marginal = order[rank == limit - 1]
        prices[assigned[marginal]] = bids[marginal]
        assigned[order[rank >= limit]] = -1
        free = everyone[assigned < 0]
        if len(free) == 0:
            return assigned
    return _fill(costs, assigned, seats, xp)


def _seats(costs: Array, xp: Any) -> Array:
    """Seats of each cluster, n // k, and one more for those that most points would choose until all n are given out."""
    n, k = costs.shape
    demand = xp.bincount(xp.argmin(costs, axis=1), minlength=k)
    seats = xp.full((k,), n // k, dtype=xp.int64, device=costs.device)
    seats[xp.argsort(-demand, stable=True)[: n % k]] += 1
    return seats


def _wishes(costs: Array, xp: Any) -> tuple[Array, Array]:
    """Cheapest cluster of each row, and what the next one would cost more; overwrites ``costs``."""
    rows = xp.arange(len(costs), device=costs.device)
    wish = xp.argmin(costs, axis=1)
    lowest = costs[rows, wish]
    if costs.shape[1] == 1:
        return wish, xp.zeros_like(lowest)
    costs[rows, wish] = xp.inf
    regret = xp.amin(costs, axis=1) - lowest
    return wish, xp.where(xp.isfinite(regret), regret, xp.zeros_like(regret))


def _grouped_descending(groups: Array, values: Array, xp: Any) -> Array:
    """Order by group, within a group by falling value, within equal values as given."""
    falling = xp.argsort(-values, stable=True)
    return falling[xp.argsort(groups[falling], stable=True)]


def _rank(groups: Array, k: int, xp: Any) -> Array:
    """Place of each entry within its group, from 0; ``groups`` is sorted."""
    sizes = xp.bincount(groups, minlength=k)
    first = xp.cumsum(sizes, axis=0) - sizes
    return xp.arange(len(groups), device=groups.device) - first[groups]


def _fill(costs: Array, assigned: Array, seats: Array, xp: Any) -> Array:
    """Seat the points that have none: each asks the cheapest cluster with room, those with most to lose come first."""
    n, k = costs.shape
    everyone = xp.arange(n, device=costs.device)
    free = everyone[assigned < 0]
    while len(free):
        room = seats - xp.bincount(assigned[assigned >= 0], minlength=k)
        wish, regret = _wishes(xp.where(room > 0, costs[free], xp.inf), xp)
        order = _grouped_descending(wish, regret, xp)
        seated = order[_rank(wish[order], k, xp) < room[wish[order]]]
        assigned[free[seated]] = wish[seated]
        free = everyone[assigned < 0]
    return assigned
