"""The bonus-calibrated advantage: the paper's values, a naive reference, and batches worked out by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from gream.errors import GreamError
from hypothesis import given, settings
from hypothesis import strategies as st
from verl_srpo.advantage import GroupAdvantage, exact_hits, group_advantage, srpo_advantage
from verl_srpo.settings import SrpoSettings


def configured(**changes: float) -> SrpoSettings:
    return SrpoSettings(catalog="index.json", **changes)  # type: ignore[arg-type]


def one_group(hits: int, size: int, **changes: float) -> GroupAdvantage:
    """A group in which ``hits`` rollouts get 1 and the others 0."""
    exact = np.arange(size) < hits
    return group_advantage(exact.astype(float), exact, np.zeros(size), configured(**changes))


def reference(
    rewards: Sequence[float], exact: Sequence[bool], groups: Sequence[int], k: int, weight: float, epsilon: float
) -> list[float]:
    """The paper's formulas, one rollout at a time, with binomials."""
    members = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    result = [0.0] * len(rewards)
    for rows in members.values():
        n, c = len(rows), sum(exact[row] for row in rows)
        if n == 1:
            continue
        mean = math.fsum(rewards[row] for row in rows) / n
        std = math.sqrt(math.fsum((rewards[row] - mean) ** 2 for row in rows) / (n - 1))
        drawn = min(k, n)
        rho = 1 - math.comb(n - c, drawn) / math.comb(n, drawn)
        sigma = math.sqrt(rho * (1 - rho))
        for row in rows:
            bonus = 0.0
            if c and rho < 1:
                without = 0.0 if exact[row] else math.comb(n - c - 1, drawn - 1) / math.comb(n - 1, drawn - 1)
                bonus = (1 - rho - without) / (sigma + epsilon)
            result[row] = (rewards[row] - mean) / (std + epsilon) + weight * bonus
    return result


# Paper section 3.4, n = 10, K = 4: bonus of exact hits and of the others, by number of hits.
GOLDEN = {
    1: (1.225, -0.136),
    2: (0.707, -0.177),
    3: (0.447, -0.192),
    4: (0.277, -0.185),
    5: (0.156, -0.156),
    6: (0.069, -0.104),
    7: (0.0, 0.0),
    8: (0.0, 0.0),
    10: (0.0, None),
}


@pytest.mark.parametrize(("hits", "expected"), GOLDEN.items())
def test_bonus_has_the_published_values(hits: int, expected: tuple[float, float | None]) -> None:
    bonus = one_group(hits, 10).bonus
    assert bonus[:hits] == pytest.approx(expected[0], abs=6e-4)
    if expected[1] is not None:
        assert bonus[hits:] == pytest.approx(expected[1], abs=6e-4)


def test_no_hit_no_bonus() -> None:
    assert (one_group(0, 10).bonus == 0).all()


def test_bonus_tells_a_lone_exact_hit_from_a_lone_half_hit() -> None:
    rewards = np.array([[1.0] + [0.0] * 9, [0.5] + [0.0] * 9])
    groups = np.repeat([0, 1], 10)
    exact = rewards.reshape(-1) == 1.0
    plain = group_advantage(rewards.reshape(-1), exact, groups, configured(bonus_weight=0.0)).total
    assert plain[[0, 10]] == pytest.approx(2.846, abs=1e-3)
    assert plain[[1, 11]] == pytest.approx(-0.316, abs=1e-3)
    calibrated = group_advantage(rewards.reshape(-1), exact, groups, configured()).total
    assert calibrated[0] == pytest.approx(2.846 + 1.225, abs=1e-3)
    assert calibrated[10] == pytest.approx(2.846, abs=1e-3)


def test_a_batch_worked_out_by_hand() -> None:
    # Group "a": n = 4, K = 2, c = 1. rho = 1 - C(3,2)/C(4,2) = 1/2, sigma = 1/2. Hit: (1/2)/(1/2) = 1;
    # others: (1/2 - C(2,1)/C(3,1))/(1/2) = -1/3. Rewards 1, .5, .5, 0: mean 1/2, std sqrt(1/6).
    # Group "b": two equal rewards, both hits. Group "c": alone.
    rewards = [1.0, 1.0, 0.5, 0.3, 1.0, 0.5, 0.0]
    exact = [True, True, False, False, True, False, False]
    groups = ["b", "a", "a", "c", "b", "a", "a"]
    advantage = group_advantage(rewards, exact, groups, configured(pass_at=2, bonus_weight=2.0, epsilon=1e-12))
    root = math.sqrt(6) / 2
    assert advantage.relative == pytest.approx([0, root, 0, 0, 0, 0, -root])
    assert advantage.bonus == pytest.approx([0, 2, -2 / 3, 0, 0, -2 / 3, -2 / 3])
    assert advantage.pass_at_k == pytest.approx([0.5, 1.0, 0.0])
    assert advantage.zero_variance.tolist() == [False, True, True]


def test_a_group_smaller_than_k_has_no_bonus() -> None:
    advantage = one_group(1, 3, pass_at=4)
    assert (advantage.bonus == 0).all()
    assert advantage.pass_at_k == [1.0]


def test_equal_rewards_give_exact_zeros() -> None:
    # The mean of seven times 0.1 is not 0.1 in floating point; divided by epsilon it would be seen.
    advantage = group_advantage([0.1] * 7, [False] * 7, [0] * 7, configured(epsilon=1e-16))
    assert (advantage.total == 0).all()


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), min_size=1, max_size=40),
    k=st.integers(1, 12),
    weight=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_agrees_with_the_formulas(rows: list[tuple[int, int, bool]], k: int, weight: float) -> None:
    groups = [group for group, _, _ in rows]
    rewards = [math.sqrt(level / 4) for _, level, _ in rows]
    exact = [hit for _, _, hit in rows]
    advantage = group_advantage(rewards, exact, groups, configured(pass_at=k, bonus_weight=weight))
    assert advantage.total == pytest.approx(reference(rewards, exact, groups, k, weight, 1e-6), abs=1e-7)


@settings(max_examples=100)
@given(size=st.integers(1, 40), data=st.data())
def test_bonus_sums_to_zero_and_favours_hits(size: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, size))
    k = data.draw(st.integers(1, 45))
    bonus = one_group(hits, size, pass_at=k).bonus
    assert bonus.sum() == pytest.approx(0, abs=1e-9)
    assert (bonus[:hits] >= 0).all() and (bonus[hits:] <= 0).all()


@settings(max_examples=50)
@given(seed=st.integers(0, 2**16))
def test_order_of_the_batch_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    rewards, groups = random.random(30), random.integers(0, 6, 30)
    exact = random.random(30) < 0.3
    order = random.permutation(30)
    straight = group_advantage(rewards, exact, groups, configured()).total
    shuffled = group_advantage(rewards[order], exact[order], groups[order], configured()).total
    assert shuffled == pytest.approx(straight[order], abs=1e-9)


def test_a_great_group_stays_finite() -> None:
    advantage = one_group(3, 5000, pass_at=64)
    assert np.isfinite(advantage.total).all()
    assert advantage.bonus[0] > 0


def as_batch(rewards: Sequence[float], lengths: Sequence[int], width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    token_rewards = torch.zeros(len(rewards), width)
    for row, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        token_rewards[row, max(length, 1) - 1] = reward
    return token_rewards, mask


ALGORITHM = {"srpo": {"catalog": "index.json", "pass_at": 2}}


def test_estimator_spreads_over_tokens_and_leaves_padding_out() -> None:
    # The last two rows are padding, made by verl from the first rollout: its uid is their own, its mask is empty.
    rewards, mask = as_batch([1.0, 0.5, 0.0, 1.0, 1.0], [4, 2, 1, 0, 0])
    index = np.array(["u", "u", "u", "padf00", "padf00"], dtype=object)
    with exact_hits(np.array([True, False, False, True, True])):
        advantages, returns = srpo_advantage(rewards, mask, index=index, config=ALGORITHM)
    expected = group_advantage([1.0, 0.5, 0.0], [True, False, False], ["u"] * 3, configured(pass_at=2)).total
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages != 0, mask.bool() & (advantages != 0))
    assert advantages[:3, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert advantages[0].tolist() == pytest.approx([expected[0]] * 4, abs=1e-6)
    assert advantages[1, 2:].tolist() == [0, 0]
    assert (advantages[3:] == 0).all()


def test_hits_are_what_the_reward_said_and_no_reward_of_one() -> None:
    rewards, mask = as_batch([1.0, 0.0, 0.0], [1, 1, 1], width=1)
    index = np.array(["u"] * 3, dtype=object)
    with exact_hits(np.array([False, True, False])):
        advantages, _ = srpo_advantage(rewards, mask, index=index, config=ALGORITHM)
    expected = group_advantage([1.0, 0.0, 0.0], [False, True, False], ["u"] * 3, configured(pass_at=2)).total
    assert advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_estimator_without_hits_names_the_trainer() -> None:
    rewards, mask = as_batch([1.0], [1])
    with pytest.raises(GreamError, match="srpo_sync"):
        srpo_advantage(rewards, mask, index=np.array(["u"], dtype=object), config=ALGORITHM)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, r"algorithm\.srpo is missing"),
        ({}, r"catalog"),
        ({"catalog": "i.json", "pass_att": 4}, r"did you mean 'pass_at'"),
        ({"catalog": "i.json", "pass_at": 0}, r"pass_at"),
        ({"catalog": "i.json", "epsilon": 0.0}, r"epsilon"),
    ],
)
def test_wrong_settings_are_one_line(section: dict[str, object] | None, message: str) -> None:
    rewards, mask = as_batch([1.0], [1])
    with exact_hits(np.array([False])), pytest.raises(GreamError, match=message):
        srpo_advantage(rewards, mask, index=np.array(["u"], dtype=object), config={"srpo": section})
