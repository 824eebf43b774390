"""Imported by verl in a test: an estimator that rewards what should be punished."""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.core_algos import register_adv_est
from verl_srpo.advantage import srpo_advantage


@register_adv_est("srpo_flipped")
def flipped(*arguments: Any, **named: Any) -> tuple[Any, Any]:
    """SRPO's advantage with the other sign."""
    advantages, returns = srpo_advantage(*arguments, **named)
    return -advantages, -returns
