"""What a training step reports about rewards, groups and advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from verl_srpo.advantage import GroupAdvantage

if TYPE_CHECKING:
    import torch


def step_metrics(
    rewards: npt.NDArray[np.float64],
    parts: Sequence[Mapping[str, float]],
    advantage: GroupAdvantage,
    *,
    levels: int,
    pass_at: int,
) -> dict[str, float]:
    """Metrics of one step, padding left out.

    Args:
        rewards: ``[B]``.
        parts: For each rollout, the extra information of `verl_srpo.reward_manager`.
        advantage: Of the same rollouts.
        levels: H.
        pass_at: K.

    Returns:
        Named as verl logs them. Shares lie in 0..1. ``srpo/pass_at_K`` and ``srpo/hits_per_group`` are means over
        groups, ``srpo/groups/without_hit`` the share of those without one exact hit, ``srpo/bonus_share`` is
        the bonus's part of all that moves the policy, by absolute value.
    """
    level = np.array([part["match_level"] for part in parts])
    moved_by_bonus = float(np.abs(advantage.bonus).sum())
    moved = float(np.abs(advantage.relative).sum()) + moved_by_bonus

    def share(key: str) -> float:
        return float(np.mean([part[key] for part in parts]))

    return {
        "srpo/reward": float(rewards.mean()),
        **{f"srpo/match_level/{matched}": float((level == matched).mean()) for matched in range(levels + 1)},
        "srpo/exact_hits": share("exact"),
        "srpo/hits_per_group": share("exact") * len(parts) / len(advantage.pass_at_k),
        f"srpo/pass_at_{pass_at}": float(advantage.pass_at_k.mean()),
        "srpo/zero_variance_groups": float(advantage.zero_variance.mean()),
        "srpo/groups/without_hit": float((advantage.pass_at_k == 0).mean()),
        "srpo/format_ok": share("format_ok"),
        "srpo/invalid_id": share("invalid_id"),
        "srpo/bonus_share": moved_by_bonus / moved if moved else 0.0,
        "srpo/advantage_mean": float(advantage.total.mean()),
        "srpo/advantage_std": float(advantage.total.std()),
    }


def policy_gap(actor: torch.Tensor, rollout: torch.Tensor) -> float:
    """Mean absolute difference, over tokens, of what two policies say of the tokens that one of them sampled.

    Args:
        actor: Log-probabilities by the policy as the step begins, ``[tokens]``.
        rollout: By the policy that sampled.
    """
    return float((actor - rollout).abs().mean())
