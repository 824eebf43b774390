"""The FSDP2 engine of verl, registered for the device ``cpu``."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.utils import torch_functional
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from verl_srpo.engine import ConfinedEngine


def _train_on_own_share_of_cores(workers: int) -> None:
    # Ray grants a process one thread. While workers train, nothing else works, so the cores are theirs to share.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))


def _unpinned_offload(pin_memory: bool = True) -> CPUOffloadPolicy:
    # Pinning memory, which verl asks for in the reference model, needs an accelerator.
    return CPUOffloadPolicy(pin_memory=False)


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")
class CpuFsdpEngine(ConfinedEngine):
    """FSDP2 over gloo; with one process, plain training. Probabilities are those under the rollout's constraint."""

    def _build_fsdp_module(self, module: torch.nn.Module) -> Any:
        _train_on_own_share_of_cores(torch.distributed.get_world_size())
        with patch.object(transformer_impl, "CPUOffloadPolicy", _unpinned_offload):
            return super()._build_fsdp_module(module)


# To save memory verl takes the log-probabilities of one row after the other. In its engine a row is one token, and on a
# small model the loop takes longer than the model.
torch_functional.logprobs_from_logits_v2 = torch_functional.logprobs_from_logits_naive
