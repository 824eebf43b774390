"""Batch sizes that contradict each other, found before anything is loaded, each with a value that would do.

verl meets them in the first step, in a worker: as a bare assertion, or as padding that a batch is filled up with.
"""

from __future__ import annotations

from math import gcd
from typing import Any

from gream.errors import GreamError


def check_batch_sizes(config: Any) -> None:
    """Check that prompts, mini-batches, micro-batches and training processes divide each other.

    Args:
        config: verl's whole configuration.

    Raises:
        GreamError: They do not; names both sizes, the setting and a value that would do.
    """
    model, data, trainer = config.actor_rollout_ref, config.data, config.trainer
    actor, n = model.actor, model.rollout.n
    processes = trainer.nnodes * trainer.n_gpus_per_node
    ranks = max(1, processes // actor.get("ulysses_sequence_parallel_size", 1))
    prompts, mini = data.train_batch_size, actor.ppo_mini_batch_size

    if mini * n % ranks:
        even = ranks // gcd(ranks, n)
        raise GreamError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini}: with rollout.n={n}, {mini * n} rollouts at a time "
            f"cannot be shared evenly by {ranks} training processes; set it to {_up(mini, even)}"
        )
    if prompts % mini:
        raise GreamError(
            f"data.train_batch_size={prompts} is no multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}: "
            f"a step would end in padding; set it to {_up(prompts, mini)}"
        )
    micros = [(actor.use_dynamic_bsz, "actor.ppo_micro_batch_size_per_gpu", mini), *_log_probs(model, prompts)]
    for dynamic, key, of_prompts in micros:
        section, name = key.split(".")
        micro, rows = model[section][name], of_prompts * n // ranks
        if not dynamic and micro and rows % micro:
            fitting = max(size for size in range(1, min(micro, rows) + 1) if rows % size == 0)
            raise GreamError(
                f"actor_rollout_ref.{key}={micro} does not divide the {rows} rollouts that each of {ranks} training "
                f"processes gets at once ({of_prompts} prompts x {n} rollouts / {ranks}); set it to {fitting}"
            )


def _log_probs(model: Any, prompts: int) -> list[tuple[bool, str, int]]:
    """For policy and reference: whether micro-batches are dynamic, the setting, and how many prompts they cut."""
    return [
        (model[section].log_prob_use_dynamic_bsz, f"{section}.log_prob_micro_batch_size_per_gpu", prompts)
        for section in ("rollout", "ref")
    ]


def _up(value: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple
