"""The bonus-calibrated group advantage: GRPO, plus the analytic pass@K advantage for exact hits.

Paper section 3.4; the bonus is that of arXiv 2508.10751. A group holds the n rollouts of one prompt, with rewards R
and c exact hits:

    A_i = (R_i - mean R) / (std R + epsilon) + weight * bonus_i            std unbiased
    rho = 1 - C(n-c, K) / C(n, K)                                          the chance that K of the n hold a hit
    sigma = sqrt(rho (1 - rho))
    bonus_i = (1 - rho) / (sigma + epsilon)                                            for an exact hit
    bonus_i = (1 - rho - C(n-c-1, K-1) / C(n-1, K-1)) / (sigma + epsilon)              for the others

The bonus sums to zero over a group and is zero where c = 0 or rho = 1. What the formulas leave open:

- A group of fewer than K rollouts uses K = n: any hit makes rho 1, so it has no bonus.
- A group of one has nothing to be compared with: its advantage is 0.
- A group of equal rewards has advantage 0 exactly, whatever rounding would leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from verl_srpo.settings import SrpoSettings, read_settings

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupAdvantage:
    """Advantages of a batch, in their two parts.

    Attributes:
        relative: float64 ``[B]``, the group-normalised reward.
        bonus: float64 ``[B]``, the weighted pass@K bonus.
        pass_at_k: float64 ``[G]``, rho of each group, in the order of the groups' sorted names.
        zero_variance: bool ``[G]``, groups whose rewards are all equal.
    """

    relative: Floats
    bonus: Floats
    pass_at_k: Floats
    zero_variance: npt.NDArray[np.bool_]

    @property
    def total(self) -> Floats:
        """float64 ``[B]``, what the policy is trained on."""
        return self.relative + self.bonus


def group_advantage(
    rewards: npt.ArrayLike, exact: npt.ArrayLike, groups: npt.ArrayLike, settings: SrpoSettings
) -> GroupAdvantage:
    """Advantage of each rollout inside its group.

    Args:
        rewards: ``[B]``.
        exact: bool ``[B]``; hits are told by the reward, never read back out of a float.
        groups: ``[B]``, the name of each rollout's group; sizes may differ.
        settings: K, the bonus weight and epsilon.
    """
    values = np.asarray(rewards, dtype=np.float64)
    hits = np.asarray(exact, dtype=bool)
    _, first, group, size = np.unique(
        np.asarray(groups), return_index=True, return_inverse=True, return_counts=True
    )  # [G], [B], [G]

    # Measured from the group's first reward, equal rewards are exact zeros and stay so through mean and deviation.
    values = values - values[first][group]
    mean = _sum_over(group, values) / size
    deviation = values - mean[group]
    std = np.sqrt(_sum_over(group, deviation**2) / np.maximum(size - 1, 1))
    relative = deviation / (std[group] + settings.epsilon)

    c = _sum_over(group, hits.astype(np.float64))
    k = np.minimum(settings.pass_at, size)
    none_of_k = _share_without_hit(size, c, k)
    rho = 1.0 - none_of_k
    sigma = np.sqrt(rho * none_of_k) + settings.epsilon
    for_hit = none_of_k / sigma
    for_other = (none_of_k - _share_without_hit(size - 1, c, k - 1)) / sigma
    # Where no rollout hits, or every choice of K holds a hit, K attempts are all alike.
    alike = (c == 0) | (none_of_k == 0)
    bonus = np.where(alike[group], 0.0, np.where(hits, for_hit[group], for_other[group]))
    return GroupAdvantage(relative, settings.bonus_weight * bonus, rho, _sum_over(group, values**2) == 0)


def _sum_over(group: npt.NDArray[np.int64], values: Floats) -> Floats:
    """Sum of ``values`` [B] in each group, ``[G]``."""
    return np.bincount(group, weights=values).astype(np.float64)


def _share_without_hit(n: npt.NDArray[np.int64], c: Floats, k: npt.NDArray[np.int64]) -> Floats:
    """C(n-c, k) / C(n, k), ``[G]``, as a product that stays small whatever n is."""
    share = np.ones(len(n))
    for drawn in range(int(k.max(initial=0))):
        drawing = drawn < k
        # np.maximum keeps groups that have stopped drawing away from 0 / 0.
        factor = np.maximum(n - c - drawn, 0.0) / np.maximum(n - drawn, 1)
        share *= np.where(drawing, factor, 1.0)
    return share


@dataclass
class Exchange:
    """What trainer and estimator tell each other past verl, which hands an estimator no parts of the reward.

    Attributes:
        hits: bool ``[B]``, the batch's exact hits, padding included.
        advantage: Of the rows that are no padding, once `srpo_advantage` has run.
    """

    hits: npt.NDArray[np.bool_]
    advantage: GroupAdvantage | None = None


_exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exact_hits(hits: npt.NDArray[np.bool_]) -> Iterator[Exchange]:
    """For the duration of the block, `srpo_advantage` takes ``hits``, bool ``[B]``, as the batch's exact hits."""
    exchange = Exchange(hits)
    token = _exchange.set(exchange)
    try:
        yield exchange
    finally:
        _exchange.reset(token)


def srpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: npt.NDArray[np.object_],
    config: Mapping[str, Any],
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The estimator ``srpo`` of verl.

    Args:
        token_level_rewards: float ``[B, T]``.
        response_mask: ``[B, T]``; a row of zeros is padding, which verl adds to fill a batch: it belongs to no group.
        index: Group names ``[B]``.
        config: verl's ``algorithm`` section.

    Returns:
        Advantages ``[B, T]``, constant over a response, and the same as returns.

    Raises:
        GreamError: The trainer is not the one that brings exact hits along, or the settings are wrong.
    """
    import torch

    exchange = _exchange.get()
    if exchange is None:
        raise GreamError("algorithm.adv_estimator=srpo needs trainer.v1.trainer_mode=srpo_sync")
    real = response_mask.bool().any(dim=-1).cpu().numpy()  # [B]
    rewards = token_level_rewards.sum(dim=-1).double().cpu().numpy()
    names = np.asarray(index)[real].astype(str)
    exchange.advantage = group_advantage(rewards[real], exchange.hits[real], names, read_settings(config))
    totals = np.zeros(len(real))
    totals[real] = exchange.advantage.total
    spread = torch.as_tensor(totals, dtype=torch.float32, device=response_mask.device)[:, None] * response_mask
    return spread, spread
