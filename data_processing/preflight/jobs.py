"""What recipes ask of a machine, read from verl's whole configuration and from LLaMA-Factory's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gream.config import read_yaml

from .cost import Srpo


@dataclass(frozen=True)
class Job:
    """What verl made of an RL recipe.

    Attributes:
        srpo: What it costs.
        rollout: Name of the engine.
        attention: ``attn_implementation`` of the model.
        fused: Whether log-probabilities come from verl's fused kernels.
        offload: Whether weights and moments wait in main memory during a step.
        offload_between: Whether they do so while the rollout works.
        tokens: That a GPU takes at once in an update.
        engine_share: Share of a GPU's memory that the rollout engine takes.
        tensor_parallel: GPUs that the engine spreads a model over.
        length: Most tokens of a prompt and its response.
        storage_units: Of TransferQueue.
        cpus: That Ray is told to count; None where it counts the machine's.
    """

    srpo: Srpo
    rollout: str
    attention: str
    fused: bool
    offload: bool
    offload_between: bool
    tokens: int
    engine_share: float
    tensor_parallel: int
    length: int
    storage_units: int
    cpus: int | None


@dataclass(frozen=True)
class Tuning:
    """What matters here of an SFT recipe.

    Attributes:
        rows: In a batch of one GPU.
        cutoff: Most tokens of one.
        liger: Whether the loss goes through the logits in pieces.
        deepspeed: Whether DeepSpeed trains.
        offload: Whether its optimizer is in main memory.
        lora: Whether adapters are trained, not the whole model.
    """

    rows: int
    cutoff: int
    liger: bool
    deepspeed: bool
    offload: bool
    lora: bool


def read_job(config: dict[str, Any]) -> Job:
    """What matters here of verl's whole configuration."""
    policy, trainer = config["actor_rollout_ref"], config["trainer"]
    actor, model, rollout = policy["actor"], policy["model"], policy["rollout"]
    fsdp = actor["fsdp_config"]
    srpo = Srpo(
        steps=trainer["total_training_steps"],
        batch=config["data"]["train_batch_size"],
        rollouts=rollout["n"],
        checkpoints=trainer["max_actor_ckpt_to_keep"],
    )
    return Job(
        srpo,
        rollout=rollout["name"],
        # verl's own default, whatever is installed.
        attention=model["override_config"].get("attn_implementation", "flash_attention_2"),
        fused=model["use_fused_kernels"],
        offload=fsdp["offload_policy"],
        offload_between=fsdp["offload_policy"] or (fsdp["param_offload"] and fsdp["optimizer_offload"]),
        tokens=actor["ppo_max_token_len_per_gpu"],
        engine_share=rollout["gpu_memory_utilization"],
        tensor_parallel=rollout["tensor_model_parallel_size"],
        length=config["data"]["max_prompt_length"] + config["data"]["max_response_length"],
        storage_units=config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"],
        cpus=config["ray_kwargs"]["ray_init"]["num_cpus"],
    )


def read_tuning(recipe: Path) -> Tuning:
    """What matters here of an SFT recipe."""
    settings = read_yaml(recipe)
    deepspeed = settings.get("deepspeed")
    if isinstance(deepspeed, str):
        deepspeed = read_yaml(Path(deepspeed))
    zero = (deepspeed or {}).get("zero_optimization", {})
    return Tuning(
        rows=settings.get("per_device_train_batch_size", 1),
        cutoff=settings.get("cutoff_len", 2048),
        liger=settings.get("enable_liger_kernel", False),
        deepspeed=deepspeed is not None,
        offload=zero.get("offload_optimizer", {}).get("device", "none") != "none",
        lora=settings.get("finetuning_type", "lora") == "lora",
    )
