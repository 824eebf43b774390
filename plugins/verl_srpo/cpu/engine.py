"""verl's FSDP2 engine, registered for the device ``cpu``."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl


def use_own_share_of_cores(processes: int) -> None:
    """Let torch use the cores this machine has, divided among ``processes`` workers.

    Rollout and training take turns, so each may have all of them; Ray, for its part, grants a process one thread.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _unpinned_offload(pin_memory: bool = True) -> CPUOffloadPolicy:
    # Pinning memory, which verl asks for in the reference model, needs an accelerator.
    return CPUOffloadPolicy(pin_memory=False)


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")
class CpuFsdpEngine(transformer_impl.FSDPEngineWithLMHead):
    """FSDP2 over gloo; with one process, plain training."""

    def _build_fsdp_module(self, module: torch.nn.Module) -> Any:
        use_own_share_of_cores(torch.distributed.get_world_size())
        with patch.object(transformer_impl, "CPUOffloadPolicy", _unpinned_offload):
            return super()._build_fsdp_module(module)
