"""The rollout ``vllm`` on a CPU: verl's own, but for the way in which the policy's weights get there.

verl gives them to ``model.load_weights`` in vLLM's worker. On a CPU vLLM packs a layer's weights once they are loaded,
and drops what it packed them from, so that a second load finds nothing to fill. vLLM's ``reload_weights`` makes the
layers anew, from a folder. It is a plain call as well, whose error comes back: verl's own sender waits without end for
a receiver that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import verl
import vllm
from gream.seams import check_seams
from safetensors.torch import save_file
from verl.workers.rollout.vllm_rollout import ServerAdapter

from verl_srpo.cpu.vllm_package import DISTRIBUTION, NAME
from verl_srpo.cpu.weights import whole_weights
from verl_srpo.seams import VERL_VLLM_SEAMS, VLLM_SEAMS

check_seams(VERL_VLLM_SEAMS, package="verl", version=verl.__version__)
check_seams(VLLM_SEAMS, package=DISTRIBUTION, version=vllm.__version__)


class CpuVllmRollout(ServerAdapter):
    """verl's handle inside a training worker."""

    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        *,
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Send every parameter.

        Args:
            weights: Names and tensors; running through them gathers sharded ones, so every rank does.
            wire_format: verl's name for whole tensors.
            global_steps: Number of this update; verl leaves it out where the weights are those of the last one.

        Raises:
            GreamError: verl would send differences of weights.
            ray.exceptions.RayTaskError: vLLM did not take them.
        """
        state = whole_weights(NAME, weights, wire_format)
        if not self._ensure_server_handle():
            return
        with TemporaryDirectory() as folder:
            save_file(state, Path(folder, "model.safetensors"))
            await self._execute_method("reload_weights", kwargs={"weights_path": folder})
        # It was computed with the weights of before.
        await self.server_handle.clear_kv_cache.remote()
        if global_steps is not None:
            await self.server_handle.set_global_steps.remote(global_steps)
