"""Sampled rollouts as JSON lines: what was asked, what was answered, what it earned and what that did."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gream.dialogue import ANSWER_OPEN, extract_answer


def rollout_rows(
    step: int,
    *,
    keys: Sequence[str],
    prompts: Sequence[str],
    responses: Sequence[str],
    truths: Sequence[str],
    rewards: Sequence[float],
    parts: Sequence[Mapping[str, float]],
    advantages: Sequence[tuple[float, float]],
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
        advantages: Of each, the bonus included, and the bonus alone.
        policy_steps: Weight update each was sampled from; ``step - 1`` unless it was carried over.
    """
    for key, prompt, response, truth, reward, part, (advantage, bonus), policy_step in zip(
        keys, prompts, responses, truths, rewards, parts, advantages, policy_steps, strict=True
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
            "advantage": float(advantage),
            "bonus": float(bonus),
        }


def write_rollouts(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write ``rows`` to ``path`` as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)
