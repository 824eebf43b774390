"""Metrics of a training step, on a batch small enough to count by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from verl_srpo.advantage import group_advantage
from verl_srpo.metrics import policy_gap, step_metrics
from verl_srpo.rollouts import canonical_order
from verl_srpo.settings import SrpoSettings
from verl_srpo.trainer import records_up_to


def part(level: int, exact: int = 0, format_ok: int = 1, invalid_id: int = 0) -> dict[str, float]:
    return {"match_level": level, "exact": exact, "format_ok": format_ok, "invalid_id": invalid_id}


def test_every_figure_of_a_small_batch() -> None:
    # Group "a": one hit among four. Group "b": four equal rewards.
    parts = [part(2, 1), part(1), part(0, format_ok=0), part(0, invalid_id=1), *[part(1)] * 4]
    rewards = np.array([1.0, 0.7, 0.0, 0.0, 0.7, 0.7, 0.7, 0.7])
    exact = np.array([row["exact"] == 1 for row in parts])
    settings = SrpoSettings(catalog="index.json", pass_at=2)
    advantage = group_advantage(rewards, exact, list("aaaabbbb"), settings)
    metrics = step_metrics(rewards, parts, advantage, levels=2, pass_at=2)
    bonus, relative = np.abs(advantage.bonus).sum(), np.abs(advantage.relative).sum()
    assert metrics == pytest.approx(
        {
            "srpo/reward": 4.5 / 8,
            "srpo/match_level/0": 2 / 8,
            "srpo/match_level/1": 5 / 8,
            "srpo/match_level/2": 1 / 8,
            "srpo/exact_hits": 1 / 8,
            "srpo/hits_per_group": 1 / 2,
            "srpo/pass_at_2": (1 / 2 + 0) / 2,
            "srpo/zero_variance_groups": 1 / 2,
            "srpo/groups/without_hit": 1 / 2,
            "srpo/format_ok": 7 / 8,
            "srpo/invalid_id": 1 / 8,
            "srpo/bonus_share": bonus / (bonus + relative),
            "srpo/advantage_mean": advantage.total.mean(),
            "srpo/advantage_std": advantage.total.std(),
        }
    )
    assert metrics["srpo/bonus_share"] > 0


def test_a_batch_without_any_difference_moves_nothing() -> None:
    settings = SrpoSettings(catalog="index.json")
    advantage = group_advantage([0.5, 0.5], [False, False], ["a", "a"], settings)
    metrics = step_metrics(np.array([0.5, 0.5]), [part(1)] * 2, advantage, levels=2, pass_at=4)
    assert metrics["srpo/bonus_share"] == 0.0
    assert metrics["srpo/advantage_std"] == 0.0
    assert metrics["srpo/zero_variance_groups"] == 1.0


def test_the_gap_between_two_policies_is_a_mean_over_tokens() -> None:
    assert policy_gap(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([-1.5, -1.0, 0.0])) == pytest.approx(0.5)


def test_canonical_order_forgets_who_came_first() -> None:
    # The last two agree in prompt and response, and belong to two groups.
    rollouts = [((1, 2), (9,)), ((3,), (8, 8)), ((1, 2), (4, 5)), ((3,), (8, 7)), ((1, 2), (4,)), ((1, 2), (4,))]
    tensors = [(torch.tensor(prompt), torch.tensor(response), f"g{n}") for n, (prompt, response) in enumerate(rollouts)]
    orders = set()
    for shift in range(len(tensors)):
        arrived = tensors[shift:] + tensors[:shift]
        order = canonical_order(*zip(*arrived, strict=True))
        assert sorted(order) == list(range(len(tensors)))
        orders.add(tuple((tuple(arrived[row][0].tolist()), arrived[row][2]) for row in order))
    assert len(orders) == 1
    prompts = [prompt for prompt, _ in orders.pop()]
    # Rollouts of a prompt stay together.
    assert sum(before != after for before, after in pairwise(prompts)) == 1


def test_earlier_records_end_at_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert records_up_to(path, 4) == []
    lines = [json.dumps({"step": step, "data": {"x": step / 2}}) for step in (0, 1, 2, 3)]
    path.write_text("\n".join(lines) + "\n" + '{"step": 2, "da', encoding="utf-8")
    assert records_up_to(path, 2) == [{"step": step, "data": {"x": step / 2}} for step in (0, 1, 2)]
