"""The residual-sensitive reward: the paper's values, everything a response may do, and what makes a run stop early."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from hypothesis import given, settings
from hypothesis import strategies as st
from verl_srpo.dataset import check_ground_truths, ground_truth_of
from verl_srpo.reward import NEAR_MISS, ResidualReward, Rewards


def semantic_id(*codes: int) -> str:
    return "".join(level_token(level, code) for level, code in enumerate(codes))


def catalog_of(*ids: tuple[int, ...]) -> Catalog:
    return Catalog([[level_token(level, code) for level, code in enumerate(codes)] for codes in ids])


def reasoned(answer: str) -> str:
    return f"<think>\nbecause\n</think>\nHistory: \n<answer>{answer}</answer><|im_end|>"


FOUR = catalog_of((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))
# Two items share all four codes and are told apart by a fifth token; one item needs none.
FIVE = catalog_of((0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 2, 3, 0))


def score(catalog: Catalog, response: str, truth: str, table: tuple[float, ...] | None = None) -> Rewards:
    return ResidualReward(catalog, table)([response], [truth])


@pytest.mark.parametrize(
    ("answer", "reward", "level"),
    [
        ((0, 0, 0, 0), 1.0, 4),
        ((0, 0, 0, 1), 0.8660, 3),
        ((0, 0, 1, 0), 0.7071, 2),
        ((0, 1, 0, 0), 0.5, 1),
        ((1, 0, 0, 0), 0.0, 0),
    ],
)
def test_published_values_of_four_levels(answer: tuple[int, ...], reward: float, level: int) -> None:
    rewards = score(FOUR, reasoned(semantic_id(*answer)), semantic_id(0, 0, 0, 0))
    assert rewards.reward[0] == pytest.approx(reward, abs=5e-5)
    assert rewards.match_level[0] == level
    assert rewards.exact[0] == (reward == 1.0)
    assert rewards.format_ok[0]
    assert not rewards.invalid_id[0]


@pytest.mark.parametrize("levels", [1, 2, 3, 6])
def test_any_number_of_levels(levels: int) -> None:
    catalog = catalog_of((0,) * levels, *[(0,) * level + (1,) * (levels - level) for level in range(levels)])
    for level in range(levels):
        rewards = score(catalog, reasoned(semantic_id(*(0,) * level, *(1,) * (levels - level))), catalog.text(0))
        assert rewards.reward[0] == pytest.approx(math.sqrt(level / levels))
    assert score(catalog, reasoned(catalog.text(0)), catalog.text(0)).reward[0] == 1.0


@pytest.mark.parametrize(
    ("answer", "truth", "reward", "exact", "invalid"),
    [
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 1.0, True, False),
        ((0, 0, 0, 0, 1), (0, 0, 0, 0, 0), NEAR_MISS, False, False),
        ((0, 0, 0, 0, 9), (0, 0, 0, 0, 0), NEAR_MISS, False, True),
        # missing
        ((0, 0, 0, 0), (0, 0, 0, 0, 0), NEAR_MISS, False, True),
        # superfluous
        ((1, 2, 3, 0, 0), (1, 2, 3, 0), NEAR_MISS, False, True),
        ((1, 2, 3, 0), (1, 2, 3, 0), 1.0, True, False),
        # a disambiguation token earns nothing by itself
        ((0, 0, 0, 1, 0), (0, 0, 0, 0, 0), math.sqrt(3 / 4), False, True),
    ],
)
def test_disambiguation_token(
    answer: tuple[int, ...], truth: tuple[int, ...], reward: float, exact: bool, invalid: bool
) -> None:
    rewards = score(FIVE, reasoned(semantic_id(*answer)), semantic_id(*truth))
    assert rewards.reward[0] == pytest.approx(reward)
    assert (rewards.exact[0], rewards.invalid_id[0]) == (exact, invalid)
    assert rewards.match_level[0] == min(4, sum(a == t for a, t in zip(answer[:4], truth[:4], strict=True)))


def test_table_replaces_the_root() -> None:
    table = (0.1, 0.2, 0.4)
    for level, value in enumerate((0.0, *table)):
        answer = (0,) * level + (1,) + (0,) * (3 - level)
        assert score(FOUR, reasoned(semantic_id(*answer)), FOUR.text(0), table).reward[0] == pytest.approx(value)
    assert score(FOUR, reasoned(FOUR.text(0)), FOUR.text(0), table).reward[0] == 1.0


RIGHT = semantic_id(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("response", "reward", "format_ok", "invalid"),
    [
        pytest.param(f"<answer>{RIGHT}</answer>", 0.0, False, False, id="no thought"),
        pytest.param(f"<think>a<answer>{RIGHT}</answer>", 0.0, False, False, id="thought not closed"),
        pytest.param(f"<think>a</think>{RIGHT}", 0.0, False, False, id="no answer"),
        pytest.param(f"<think>a</think><answer>{RIGHT}", 0.0, False, False, id="answer not closed"),
        pytest.param(f"<think><answer>{RIGHT}</answer></think>", 0.0, False, False, id="answer inside the thought"),
        pytest.param(
            f"<think>a</think><answer>{RIGHT}</answer><answer>{RIGHT}</answer>", 0.0, False, False, id="two answers"
        ),
        pytest.param("", 0.0, False, False, id="nothing"),
        pytest.param(reasoned("no item"), 0.0, True, True, id="answer without id"),
        pytest.param(reasoned(""), 0.0, True, True, id="empty answer"),
        pytest.param(reasoned(f"It is {RIGHT}, I think."), 1.0, True, False, id="text around the id"),
        pytest.param(reasoned(f"\n{RIGHT}\n"), 1.0, True, False, id="blanks around the id"),
        pytest.param(reasoned(RIGHT) + " and more", 1.0, True, False, id="text behind the answer"),
        pytest.param(
            reasoned(RIGHT + semantic_id(1, 0, 0, 0)), math.sqrt(3 / 4), True, True, id="two ids, right first"
        ),
        pytest.param(reasoned(semantic_id(1, 0, 0, 0) + RIGHT), 0.0, True, True, id="two ids, right second"),
        pytest.param(reasoned(RIGHT + level_token(4, 0)), math.sqrt(3 / 4), True, True, id="one token too many"),
        pytest.param(reasoned(semantic_id(0, 0, 0)), math.sqrt(3 / 4), True, True, id="one token too few"),
        pytest.param(reasoned(semantic_id(0, 0, 7, 7)), math.sqrt(2 / 4), True, True, id="no item has it"),
        pytest.param(reasoned(level_token(1, 0) + RIGHT), 0.0, True, True, id="levels out of order"),
    ],
)
def test_what_a_response_may_do(response: str, reward: float, format_ok: bool, invalid: bool) -> None:
    rewards = score(FOUR, response, RIGHT)
    assert rewards.reward[0] == pytest.approx(reward)
    assert (rewards.format_ok[0], rewards.invalid_id[0]) == (format_ok, invalid)
    assert rewards.exact[0] == (reward == 1.0)


codes = st.lists(st.integers(0, 2), min_size=0, max_size=7).map(tuple)


@settings(max_examples=200)
@given(batch=st.lists(st.tuples(codes, st.integers(0, 4)), min_size=1, max_size=8))
def test_a_batch_is_its_rows_and_never_pays_more_than_the_catalogue_allows(
    batch: list[tuple[tuple[int, ...], int]],
) -> None:
    reward = ResidualReward(FOUR)
    responses = [reasoned(semantic_id(*answer)) for answer, _ in batch]
    truths = [FOUR.text(item) for _, item in batch]
    together = reward(responses, truths)
    prefixes = {tokens[:length] for tokens in FOUR.ids for length in range(5)}
    for row, (answer, item) in enumerate(batch):
        alone = reward([responses[row]], [truths[row]])
        assert together.reward[row] == alone.reward[0]
        tokens = tuple(level_token(level, code) for level, code in enumerate(answer))
        valid = max(length for length in range(min(4, len(tokens)) + 1) if tokens[:length] in prefixes)
        assert together.match_level[row] <= valid
        assert together.exact[row] == (tokens == FOUR.ids[item])
        assert (together.reward[row] == 1.0) == together.exact[row]
        assert together.invalid_id[row] == (tokens not in FOUR.ids)
        if together.invalid_id[row]:
            assert together.reward[row] <= math.sqrt(min(valid, 3) / 4) + 1e-12


FORM = re.compile(r"<think>.*?</think>(?:(?!<answer>).)*<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


def reference(catalog: Catalog, response: str, truth: str) -> tuple[float, int, bool, bool, bool]:
    """Reward, level, exact, format, invalid: the rules one after the other, for one response."""
    found = FORM.search(response) if response.count("<answer>") == 1 else None
    tokens, wanted = (tuple(re.findall(r"<\|[a-z]_\d+\|>", text)) for text in (found[1] if found else "", truth))
    levels = min(map(len, catalog.ids))
    longest = max(map(len, catalog.ids))
    level = 0
    while level < min(levels, len(tokens)) and tokens[level] == wanted[level]:
        level += 1
    invalid = found is not None and tokens not in catalog.ids
    if tokens == wanted:
        return 1.0, level, True, True, invalid
    if level == levels and len(tokens) <= longest:
        return NEAR_MISS, level, False, found is not None, invalid
    return math.sqrt(min(level, levels - 1) / levels), level, False, found is not None, invalid


pieces = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "x\n", " ", "<|im_end|>"]
    + [level_token(level, code) for level in range(5) for code in range(2)]
)


@settings(max_examples=300)
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.lists(pieces, max_size=12).map("".join), codes.map(lambda c: reasoned(semantic_id(*c))))
        ),
        min_size=1,
        max_size=6,
    ),
    item=st.integers(0, 2),
    five=st.booleans(),
)
def test_a_batch_is_what_a_plain_loop_gives(rows: list[tuple[str]], item: int, five: bool) -> None:
    catalog = FIVE if five else FOUR
    responses = [response for (response,) in rows]
    truth = catalog.text(item)
    rewards = ResidualReward(catalog)(responses, [truth] * len(rows))
    columns = (rewards.reward, rewards.match_level, rewards.exact, rewards.format_ok, rewards.invalid_id)
    for row, response in enumerate(responses):
        assert tuple(column[row] for column in columns) == reference(catalog, response, truth)


def test_a_binary_reward_is_a_table_of_zeros() -> None:
    reward = ResidualReward(FIVE, (0.0, 0.0, 0.0), near_miss=0.0)
    answers = [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (0, 0, 0, 1), (1, 2, 3, 0)]
    rewards = reward([reasoned(semantic_id(*answer)) for answer in answers], [FIVE.text(0)] * 4)
    assert rewards.reward.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rewards.match_level.tolist() == [4, 4, 3, 0]


def test_both_published_spellings() -> None:
    catalog = Catalog([["<a_0>", "<b_3>"], ["<a_0>", "<b_4>"]])
    assert score(catalog, reasoned("<a_0><b_3>"), "<a_0><b_3>").reward[0] == 1.0


def test_catalogue_of_ragged_ids_is_refused() -> None:
    with pytest.raises(GreamError, match="2 to 4 tokens"):
        ResidualReward(catalog_of((0, 0), (0, 1, 0, 0)))


def test_table_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(GreamError, match=r"reward_table has 2 entries; ids of 4 levels need 3"):
        ResidualReward(FOUR, (0.5, 0.7))


def write_rows(path: Path, truths: list[Any]) -> Path:
    pl.DataFrame({"reward_model": [{"style": "rule", "ground_truth": truth} for truth in truths]}).write_parquet(path)
    return path


def test_good_rows_pass(tmp_path: Path) -> None:
    check_ground_truths([write_rows(tmp_path / "train.parquet", [FOUR.text(0), FOUR.text(4)])], ResidualReward(FOUR))


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        (
            [FOUR.text(0), semantic_id(9, 9, 9, 9)],
            r"train\.parquet: row 1: ground truth '<\|a_10\|>.*' is no item of the catalogue",
        ),
        ([FOUR.text(0), None], r"train\.parquet: row 1: has no reward_model\.ground_truth"),
        ([""], r"train\.parquet: row 0: has no reward_model\.ground_truth"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, truths: list[Any], message: str) -> None:
    with pytest.raises(GreamError, match=message):
        check_ground_truths([write_rows(tmp_path / "train.parquet", truths)], ResidualReward(FOUR))


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("no parquet")
    pl.DataFrame({"prompt": ["x"]}).write_parquet(tmp_path / "other.parquet")
    for name, message in [
        ("train.parquet", "cannot be read"),
        ("other.parquet", "no column reward_model"),
        ("missing.parquet", "cannot be read"),
    ]:
        with pytest.raises(GreamError, match=rf"{name}: .*{message}"):
            check_ground_truths([tmp_path / name], ResidualReward(FOUR))


def test_a_row_without_reward_model() -> None:
    with pytest.raises(GreamError, match="here: has no reward_model"):
        ground_truth_of({"prompt": "x"}, source="here")


# The adapter to verl.


class CharacterTokenizer:
    """A token is a character; 0 pads."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return "".join(chr(int(number)) for number in ids)


def verl_sample(response: str, truth: str | None) -> Any:
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    tokens = [ord(character) for character in response]
    width = len(tokens) + 3
    batch = TensorDict(
        {
            "responses": torch.tensor([tokens + [0] * 3]),
            "attention_mask": torch.tensor([[1] * 5 + [1] * len(tokens) + [0] * 3]),
            "prompts": torch.ones(1, 5),
        },
        batch_size=1,
    )
    assert batch["attention_mask"].shape[1] == width + 5
    row = np.empty(1, dtype=object)
    row[0] = {"style": "rule", "ground_truth": truth}
    return DataProto(batch=batch, non_tensor_batch={"reward_model": row})


def reward_manager(tmp_path: Path, **section: Any) -> Any:
    from verl_srpo.reward_manager import SrpoRewardManager

    path = tmp_path / "index.json"
    FOUR.save(path)
    config = SimpleNamespace(algorithm={"srpo": {"catalog": str(path), **section}})
    return SrpoRewardManager(config, CharacterTokenizer())


def test_reward_manager_gives_score_and_the_same_parts_for_every_response(tmp_path: Path) -> None:
    manager = reward_manager(tmp_path)
    keys = set()
    for response, expected in [
        (reasoned(RIGHT), {"reward_score": 1.0, "match_level": 4, "exact": 1, "format_ok": 1, "invalid_id": 0}),
        (
            reasoned(semantic_id(0, 0, 7, 7)),
            {"reward_score": math.sqrt(0.5), "match_level": 2, "exact": 0, "format_ok": 1, "invalid_id": 1},
        ),
        ("nothing", {"reward_score": 0.0, "match_level": 0, "exact": 0, "format_ok": 0, "invalid_id": 0}),
    ]:
        result = asyncio.run(manager.run_single(verl_sample(response, RIGHT)))
        parts = result["reward_extra_info"]
        assert {"reward_score": result["reward_score"], **parts} == pytest.approx(expected)
        keys.add(tuple(parts))
    assert len(keys) == 1


def test_reward_manager_reads_the_table(tmp_path: Path) -> None:
    manager = reward_manager(tmp_path, reward_table=[0.1, 0.2, 0.3])
    result = asyncio.run(manager.run_single(verl_sample(reasoned(semantic_id(0, 0, 7, 7)), RIGHT)))
    assert result["reward_score"] == pytest.approx(0.2)


@pytest.mark.parametrize(("truth", "message"), [(None, "no reward_model.ground_truth"), ("x", "is no item")])
def test_reward_manager_refuses_a_bad_truth(tmp_path: Path, truth: str | None, message: str) -> None:
    with pytest.raises(GreamError, match=message):
        asyncio.run(reward_manager(tmp_path).run_single(verl_sample(reasoned(RIGHT), truth)))


def test_reward_manager_without_catalogue_names_it(tmp_path: Path) -> None:
    from verl_srpo.reward_manager import SrpoRewardManager

    config = SimpleNamespace(algorithm={"srpo": {"catalog": str(tmp_path / "none.json")}})
    with pytest.raises(GreamError, match=r"none\.json"):
        SrpoRewardManager(config, CharacterTokenizer())
