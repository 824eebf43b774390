"""Imported by verl in a test: weights go to the rollout under a name that its model does not have."""

from __future__ import annotations

from typing import Any

from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

_weights = FSDPEngine.get_per_tensor_param


def misnamed(self: FSDPEngine, *arguments: Any, **named: Any) -> tuple[Any, Any]:
    """The weights of another model."""
    tensors, peft = _weights(self, *arguments, **named)
    return ((name.replace("layers.0", "layers.77"), tensor) for name, tensor in tensors), peft


FSDPEngine.get_per_tensor_param = misnamed
