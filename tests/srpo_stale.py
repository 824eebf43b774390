"""Imported by verl in a test: every update of the rollout's weights brings the first ones again."""

from __future__ import annotations

from typing import Any

from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

_weights = FSDPEngine.get_per_tensor_param
_first: list[tuple[str, Any]] = []


def the_first_ones(self: FSDPEngine, *arguments: Any, **named: Any) -> tuple[Any, Any]:
    """The weights of the first call, whatever was learnt since."""
    tensors, peft = _weights(self, *arguments, **named)
    given = [(name, tensor.detach().clone()) for name, tensor in tensors]
    _first.extend([] if _first else given)
    return iter(_first), peft


FSDPEngine.get_per_tensor_param = the_first_ones
