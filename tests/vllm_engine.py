"""What vLLM makes of recipes by verl's own launch code, on an H100 that is not there.

A program of its own, for the set of packages for GPUs: ``python vllm_engine.py FOLDER RECIPE ...``. vLLM is linked with
the driver's library, for which something must stand in (`test_gpu_environment`). Prints a line of JSON for each recipe.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


def pretend_h100() -> None:
    """Have vLLM believe in an H100."""
    from vllm import platforms
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    class H100(NonNvmlCudaPlatform):
        """A GPU that is not there."""

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            return DeviceCapability(9, 0)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return "NVIDIA H100 80GB HBM3"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return 80 << 30

    platforms._current_platform = H100()


def write_shape(folder: Path) -> None:
    """A model folder with the configuration of Qwen3-4B and no weights."""
    from gream.footprint import QWEN3
    from srpo_support import tiny_tokenizer
    from transformers import Qwen3Config

    shape, tokenizer = QWEN3["4B"], tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    Qwen3Config(
        **shape.config(),
        architectures=["Qwen3ForCausalLM"],
        max_position_embeddings=262_144,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    ).save_pretrained(folder)


def engine_configs(folder: Path, recipes: list[str]) -> None:
    """Print what `vLLMHttpServer.launch_server` hands to vLLM, and what this makes of it."""
    from omegaconf import OmegaConf
    from test_srpo_recipes import composed
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
    from vllm.engine.arg_utils import AsyncEngineArgs

    class Server(vLLMHttpServer):
        """verl's server, up to where the engine would start."""

        def __init__(self, config: Any, model_config: Any, gpus: int) -> None:
            self.config, self.model_config, self.gpus_per_node = config, model_config, gpus
            self.node_rank = self.replica_rank = 0
            self.nnodes = 1
            self._disaggregation_role = "null"

        def _should_profile(self) -> bool:
            return False

        async def run_server(self, args: Any) -> None:
            self.made = AsyncEngineArgs.from_cli_args(args).create_engine_config()

    for recipe in recipes:
        config = composed(recipe, f"actor_rollout_ref.model.path={folder}/model")
        OmegaConf.resolve(config)
        policy = config.actor_rollout_ref
        server = Server(
            omega_conf_to_dataclass(policy.rollout),
            omega_conf_to_dataclass(policy.model),
            config.trainer.n_gpus_per_node,
        )
        asyncio.run(server.launch_server())
        made = server.made
        said = {
            "recipe": recipe,
            "architecture": made.model_config.architectures[0],
            "length": made.model_config.max_model_len,
            "dtype": str(made.model_config.dtype),
            "seed": made.model_config.seed,
            "sleep": made.model_config.enable_sleep_mode,
            "memory": made.cache_config.gpu_memory_utilization,
            "tensor_parallel": made.parallel_config.tensor_parallel_size,
            "logprobs": str(made.model_config.logprobs_mode),
            "graphs": str(made.compilation_config.cudagraph_mode),
        }
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    pretend_h100()
    write_shape(Path(sys.argv[1]) / "model")
    engine_configs(Path(sys.argv[1]), sys.argv[2:])
