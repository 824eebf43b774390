"""The policy's weights on their way to a rollout."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from gream.errors import GreamError


def whole_weights(
    rollout: str, weights: Iterable[tuple[str, torch.Tensor]], wire_format: str
) -> dict[str, torch.Tensor]:
    """Every parameter by name, in memory of its own.

    Args:
        rollout: Name of the rollout, for the error line.
        weights: Names and tensors; running through them gathers sharded ones, so every rank does.
        wire_format: verl's name for what ``weights`` are.

    Raises:
        GreamError: They are differences of weights.
    """
    if wire_format != "named_tensors":
        raise GreamError(f"rollout {rollout} takes whole weights, not '{wire_format}'; use checkpoint_engine naive")
    return {name: tensor.detach().clone().contiguous() for name, tensor in weights}
