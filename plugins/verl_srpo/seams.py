"""Insides of verl, and of vLLM, that this plugin holds on to."""

from __future__ import annotations

from gream.seams import Seam

_TRAINER = "verl.trainer.ppo.v1.trainer_base"
_REPLAY = "verl.trainer.ppo.v1.replay_buffer"
_ENGINE = "verl.workers.engine.fsdp.transformer_impl"

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
    Seam("transfer_queue.interface", "_TQ_CONTROLLER"),
    Seam("transfer_queue.interface", "_TQ_STORAGE"),
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
    # Answers that are confined to a catalogue.
    Seam(_ENGINE, "FSDPEngineWithLMHead.forward_step", ("micro_batch",)),
    Seam(
        _ENGINE,
        "FSDPEngineWithLMHead.prepare_model_outputs",
        ("output", "output_args", "micro_batch", "logits_processor_func"),
    ),
    Seam("verl.models.transformers.dense_common", "forward_with_torch_backend", (), ("FusedLinearForPPO",)),
    Seam(
        "verl.utils.experimental.torch_functional",
        "FusedLinearForPPO.forward",
        ("hidden_states", "vocab_weights", "input_ids", "temperature"),
    ),
    Seam("verl.workers.engine.base", "EngineRegistry._engines"),
)

CPU_SEAMS = (
    Seam("verl.experimental.agent_loop.agent_loop", "register", ("agent_name",)),
    Seam("verl.experimental.agent_loop.single_turn_agent_loop", "SingleTurnAgentLoop.run", ("sampling_params",)),
    Seam("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    Seam("verl.plugin.platform", "PlatformRegistry.register", ("platform",)),
    Seam("verl.utils.distributed", "initialize_global_process_group_ray", ("timeout_second", "backend")),
    Seam("verl.workers.engine.base", "EngineRegistry.register", ("model_type", "backend", "device")),
    Seam(_ENGINE, "CPUOffloadPolicy"),
    Seam(_ENGINE, "FSDPEngineWithLMHead._build_fsdp_module", ("module",)),
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
