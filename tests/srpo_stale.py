"""Imported by verl in a test: every update of the rollout's weights brings the first ones again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verl_srpo.cpu.rollout import HfCpuRollout

_update = HfCpuRollout.update_weights
_first: list[tuple[str, Any]] = []


async def update_with_the_first(
    self: HfCpuRollout, weights: Iterable[tuple[str, Any]], *rest: Any, **named: Any
) -> None:
    """Take the new weights and pass the first ones on."""
    given = [(name, tensor.detach().clone()) for name, tensor in weights]
    _first.extend([] if _first else given)
    await _update(self, _first, *rest, **named)


HfCpuRollout.update_weights = update_with_the_first
