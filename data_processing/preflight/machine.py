"""Checks of packages, GPUs and main memory against recipes; the arithmetic is `gream.footprint`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from gream.footprint import GB, USABLE, Shape, engine, held, main_memory, ray_slots, sft, update
from gream.gpus import find_gpus, physical_memory, too_old

from .checks import Check
from .jobs import Job, Tuning

# A batch is padded to its longest row: tokens of one that is long, not of the mean.
LONG_ROW = 512
# A step's tokens per GPU are lowered to no less than this: a prompt and a response whole.
SHORTEST_STEP = 3072


def check_packages(tunings: Sequence[Tuning], job: Job | None) -> Check:
    """What the recipes need besides the packages of a machine without a GPU."""
    needed = {(job.rollout if job else "vllm"): "verl's rollout"}
    if any(tuning.deepspeed for tuning in tunings):
        needed["deepspeed"] = "LLaMA-Factory's ZeRO-2"
    if any(tuning.liger for tuning in tunings):
        needed["liger_kernel"] = "LLaMA-Factory's loss (enable_liger_kernel)"
    missing = [f"{name} for {what}" for name, what in needed.items() if find_spec(name) is None]
    if missing:
        said = f"not installed: {'; '.join(missing)}; bash scripts/install.sh --gpu installs them into .venv-gpu"
        return Check("packages", said, good=False)
    if job and job.attention.startswith("flash_attention") and find_spec("flash_attn") is None:
        return Check("packages", f"flash-attn is not installed, which {job.attention} is; attention=sdpa", good=False)
    return Check("packages", ", ".join(needed))


def check_gpus(gpus: int, shape: Shape, tunings: Sequence[Tuning], job: Job | None) -> list[Check]:
    """GPUs of this machine against what SFT and SRPO of the model take, each refusal with the setting that mends it."""
    import torch

    wanted = (
        f"{gpus} of {_smallest(gpus, shape, tunings, job) / GB:.0f} GB needed for {shape.parameters / GB:.1f} billion"
    )
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for gpu in find_gpus():
        if torch.version.cuda and (problem := too_old(gpu, torch.version.cuda)):
            return [Check("GPUs", f"{gpu.name}: {problem}", good=False)]
    if len(found) < gpus:
        said = f"{len(found)} GPU" if found else "no GPU found"
        return [Check("GPUs", f"{said}; {wanted} parameters; take fewer (--gpus) or another machine", good=False)]
    memory = min(gpu.total_memory for gpu in found[:gpus])
    problems = memory_problems(memory, gpus, shape, tunings, job)
    if problems:
        return [Check("GPUs", problem, good=False) for problem in problems]
    return [Check("GPUs", f"{len(found)} GPU: {found[0].name}, {memory / GB:.0f} GB; {wanted} parameters")]


def memory_problems(memory: int, gpus: int, shape: Shape, tunings: Sequence[Tuning], job: Job | None) -> list[str]:
    """What does not fit GPUs of a memory, each with the setting that mends it.

    Args:
        memory: Of each GPU, in bytes.
        gpus: GPUs.
        shape: Of the model.
        tunings: SFT recipes.
        job: RL recipe, if it could be read.
    """
    room, problems = USABLE * memory, []
    smaller = "take more GPUs (--gpus), larger ones, or a smaller base model"
    for tuning in tunings:
        if (needed := _tuning_bytes(gpus, shape, tuning)) > room:
            one = replace(tuning, rows=1)
            remedy = smaller
            if _tuning_bytes(gpus, shape, one) <= room:
                remedy = "lower per_device_train_batch_size, and raise gradient_accumulation_steps as much"
            elif _tuning_bytes(gpus, shape, replace(one, offload=True)) <= room:
                remedy = "deepspeed.zero_optimization.offload_optimizer.device=cpu"
            elif _tuning_bytes(gpus, shape, replace(one, lora=True)) <= room:
                remedy = "finetuning_type=lora lora_target=all (docs/sft.md)"
            problems.append(f"SFT takes {needed / GB:.0f} of {room / GB:.0f} GB: {remedy}")
            break
    if job is None:
        return problems
    log_probs = _log_probs(job)

    def taken(tokens: int, *, offload: bool, kernel: str = log_probs) -> float:
        return update(shape, gpus, tokens, log_probs=kernel, offload=offload)

    offload = "actor_rollout_ref.actor.fsdp_config.offload_policy=true"
    if (needed := taken(job.tokens, offload=job.offload)) > room:
        fitting = next(
            (n for n in range(job.tokens, SHORTEST_STEP - 1, -1024) if taken(n, offload=job.offload) <= room), 0
        )
        remedy = smaller
        if log_probs != "fused" and taken(job.tokens, offload=job.offload, kernel="fused") <= room:
            remedy = "actor_rollout_ref.model.use_fused_kernels=true"
        elif fitting:
            remedy = f"tokens_per_gpu.{job.attention}={fitting}"
        elif taken(SHORTEST_STEP, offload=True) <= room:
            remedy = offload
        problems.append(f"an update takes {needed / GB:.0f} of {room / GB:.0f} GB: {remedy}")
    least, most = (
        engine(shape, job.length, job.tensor_parallel),
        room - (0 if job.offload_between else held(shape, gpus)),
    )
    share = job.engine_share * memory
    if not least <= share <= most:
        remedy = smaller
        if least <= most:
            remedy = (
                f"actor_rollout_ref.rollout.gpu_memory_utilization={math.floor(50 * (least + most) / memory) / 100}"
            )
        elif not job.offload_between and least <= room:
            remedy = offload
        problems.append(
            f"the rollout engine has {share / GB:.0f} GB, {least / GB:.0f} are the least, "
            f"{max(0, most) / GB:.0f} are left beside the actor: {remedy}"
        )
    return problems


def _log_probs(job: Job) -> str:
    """What computes log-probabilities here: verl takes flash-attn's cross-entropy wherever it is installed."""
    return "fused" if job.fused else "flash" if find_spec("flash_attn") else "plain"


def _tuning_bytes(gpus: int, shape: Shape, tuning: Tuning) -> float:
    tokens = tuning.rows * min(tuning.cutoff, LONG_ROW)
    return sft(shape, gpus, tokens, liger=tuning.liger, offload=tuning.offload, lora=tuning.lora)


def _smallest(gpus: int, shape: Shape, tunings: Sequence[Tuning], job: Job | None) -> float:
    needed = [_tuning_bytes(gpus, shape, tuning) for tuning in tunings]
    if job:
        beside = 0 if job.offload_between else held(shape, gpus)
        needed += [
            update(shape, gpus, job.tokens, log_probs=_log_probs(job), offload=job.offload),
            engine(shape, job.length, job.tensor_parallel) + beside,
        ]
    return max(needed) / USABLE


def check_machine(gpus: int, shape: Shape, job: Job) -> Check:
    """Main memory and slots of Ray for SRPO on one machine: without enough of the latter it waits without end."""
    needed, slots = main_memory(shape, gpus, offload=job.offload), ray_slots(gpus, job.storage_units)
    memory, cpus = physical_memory(), job.cpus or os.cpu_count() or 1
    said = f"{memory / GB:.0f} GB of main memory, {needed / GB:.0f} needed; {cpus} slots of Ray, {slots} needed"
    if cpus < slots:
        return Check("machine", f"{said}: ray_kwargs.ray_init.num_cpus={slots}", good=False)
    if memory < needed:
        mend = "another machine, a smaller base model" + (
            ", or offload_policy=false" if job.offload else ", or fewer --gpus"
        )
        return Check("machine", f"{said}: {mend}", good=False)
    return Check("machine", said)
