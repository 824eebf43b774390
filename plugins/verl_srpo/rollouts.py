"""Sampled rollouts: names, order, parts of their rewards, records; and the metrics of the steps they were made in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gream.dialogue import ANSWER_OPEN, extract_answer
from gream.errors import GreamError
from gream.files import Row, read_jsonl


def group_of(key: str) -> str:
    """The group that verl's key of a rollout, ``GROUP_SESSION_INDEX``, names."""
    return key.split("_", 1)[0]


def reward_parts(extra_fields: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """What each reward was given for, as the reward manager said it.

    Args:
        extra_fields: verl's field of this name, one of each rollout.

    Raises:
        GreamError: There is nothing of the kind, or not the same for every rollout.
    """
    parts = [extra.get("reward_extra_info") or {} for extra in extra_fields]
    for part in parts:
        if "exact" not in part:
            raise GreamError("trainer.v1.trainer_mode=srpo_sync needs reward.reward_manager.name=srpo")
        if part.keys() != parts[0].keys():
            odd = ", ".join(sorted(part.keys() ^ parts[0].keys()))
            raise GreamError(
                f"reward.reward_manager: the keys of reward_extra_info differ between rollouts ({odd}); "
                "return the same keys for every one"
            )
    return parts


def canonical_order(prompts: Sequence[Any], responses: Sequence[Any], keys: Sequence[str]) -> list[int]:
    """The order of rollouts that their tokens determine, rollouts of one prompt side by side.

    Prompts are ordered by a hash and not by their tokens: neighbours share a mini-batch, and should be no more alike
    than chance makes them.

    Args:
        prompts: Token tensors, one of each rollout.
        responses: Token tensors.
        keys: verl's names of the rollouts, for those that agree in both.
    """

    def place(row: int) -> tuple[bytes, list[int], str]:
        return hashlib.sha256(np.asarray(prompts[row]).tobytes()).digest(), responses[row].tolist(), keys[row]

    return sorted(range(len(prompts)), key=place)


def rollout_rows(
    step: int,
    *,
    keys: Sequence[str],
    prompts: Sequence[str],
    responses: Sequence[str],
    truths: Sequence[str],
    rewards: Sequence[float],
    parts: Sequence[Mapping[str, float]],
    advantages: Sequence[float],
    bonuses: Sequence[float],
    policy_steps: Sequence[int],
) -> Iterator[dict[str, Any]]:
    """One record per rollout.

    Args:
        step: Training step.
        keys: verl's, ``GROUP_ROLLOUT_INDEX``.
        prompts: Texts.
        responses: Texts.
        truths: The item each should have named.
        rewards: Of each.
        parts: What the reward was given for.
        advantages: Of each, the bonus included.
        bonuses: The part of it that is the bonus.
        policy_steps: Weight update each was sampled from; ``step - 1`` unless it was carried over.
    """
    for key, prompt, response, truth, reward, part, advantage, bonus, policy_step in zip(
        keys, prompts, responses, truths, rewards, parts, advantages, bonuses, policy_steps, strict=True
    ):
        group, rollout, _ = key.split("_")
        yield {
            "step": step,
            "group": group,
            "rollout": int(rollout),
            "policy_step": policy_step,
            "prompt": prompt,
            "chain": response.partition(ANSWER_OPEN)[0],
            "answer": extract_answer(response),
            "response": response,
            "truth": truth,
            "reward": reward,
            **part,
            "advantage": advantage,
            "bonus": bonus,
        }


def read_metrics(path: Path) -> list[Row]:
    """The records, ``{"step", "data"}``, that verl's file logger has written; the run may go on, or have been killed.

    Raises:
        GreamError: The file cannot be read, or a line before the last is no such record.
    """
    fields = {"step": int | float, "data": dict}
    return read_jsonl(path, fields=fields, unfinished=True, remedy="name a log that verl's file logger wrote")
