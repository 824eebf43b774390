"""Dynamic sampling: which groups are kept, what is asked for next, and that nothing is lost between steps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gream.errors import GreamError
from gream.files import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from verl_srpo.groups import GenerationTally, GroupSelection, read_selection

ON = {"_target_": "verl.trainer.config.FilterGroupsConfig", "enable": True, "max_num_gen_batches": 10}


def part(exact: int = 0, level: int = 0) -> dict[str, float]:
    return {"match_level": level, "exact": exact, "format_ok": 1, "invalid_id": 0}


def test_selection_is_read_from_verls_own_section() -> None:
    assert read_selection({}) is None
    assert read_selection({"filter_groups": {**ON, "enable": False, "max_num_gen_batches": 0}}) is None
    assert read_selection({"filter_groups": ON}) == GroupSelection(enable=True, max_num_gen_batches=10)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"enable": True}, r"max_num_gen_batches is 0, no bound"),
        ({**ON, "max_inflight_gen_batches": 0}, r"max_inflight_gen_batches"),
        ({**ON, "enabled": True}, r"did you mean 'enable'"),
    ],
)
def test_wrong_selection_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(GreamError, match=message):
        read_selection({"filter_groups": section})


def test_a_group_is_kept_where_its_rewards_differ() -> None:
    tally = GenerationTally()
    assert tally.add("reward", [0.5, 0.0], [part(), part()])
    assert not tally.add("reward", [0.7, 0.7], [part(), part(level=1)])
    assert tally.add("exact", [0.7, 0.7], [part(exact=1), part()])
    assert not tally.add("exact", [0.7, 0.0], [part(), part()])
    assert (tally.kept, tally.replaced, tally.rollouts) == (2, 2, 8)
    metrics = tally.metrics(surplus=1, carried=3)
    assert metrics["srpo/groups/generated"] == 4
    assert metrics["srpo/groups/reward_generated"] == pytest.approx(4.0 / 8)
    assert (metrics["srpo/groups/surplus"], metrics["srpo/groups/carried"]) == (1, 3)
    with pytest.raises(GreamError, match="'hits' is no part of the reward; parts: reward, match_level, exact"):
        tally.add("hits", [0.0, 1.0], [part(), part()])


def test_the_next_generation_follows_the_rate_of_this_step() -> None:
    tally = GenerationTally()
    assert tally.next_size(8, 8) == 8
    for kept in (True, False, False, False):
        tally.add("reward", [0.0, float(kept)], [part(), part()])
    assert tally.next_size(2, 100) == 8
    assert tally.next_size(2, 5) == 5
    nothing = GenerationTally()
    nothing.add("reward", [0.0, 0.0], [part(), part()])
    assert nothing.next_size(3, 100) == 3


def test_a_shortage_says_what_was_seen() -> None:
    tally = GenerationTally(generations=2)
    for reward in (0.0, 0.0, 0.5):
        tally.add("reward", [reward, reward], [part(level=int(reward > 0))] * 2)
    tally.add("reward", [1.0, 0.0], [part(exact=1, level=2), part()])
    message = str(tally.shortage("reward", step=7, groups=1, wanted=4))
    assert "\n" not in message
    assert "step 7: 2 generations of 4 groups gave 1 of 4 groups whose reward differs" in message
    assert "3 did not differ (2 at 0, 1 at 0.5)" in message
    assert "reward 0.25" in message and "format_ok 1" in message and "exact 0.125" in message
    assert "algorithm.filter_groups.max_num_gen_batches" in message


# The replay buffer, over a TransferQueue of dictionaries.


class FakeQueue:
    """As much of TransferQueue as a replay buffer uses, in one process."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict[str, Any]]] = {"train": {}}
        self.values: dict[str, dict[str, Any]] = {}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        return {name: {key: dict(tag) for key, tag in tags.items()} for name, tags in self.tags.items()}

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            del self.tags[partition_id][key]
            self.values.pop(key, None)

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> Any:
        import torch
        from tensordict import TensorDict
        from tensordict.tensorclass import NonTensorStack

        columns = {name: [self.values[key][name] for key in keys] for name in select_fields}
        return TensorDict(
            {
                name: torch.nested.as_nested_tensor(column, layout=torch.jagged)
                if isinstance(column[0], torch.Tensor)
                else NonTensorStack(*column)
                for name, column in columns.items()
            },
            batch_size=[len(keys)],
        )


class FakeRollouts:
    """Makes groups when asked: group g has the rewards ``rewards[g]``; they may finish in any order."""

    def __init__(self, queue: FakeQueue, rewards: Iterator[Sequence[float]], reverse: bool = False) -> None:
        self.queue = queue
        self.rewards = rewards
        self.reverse = reverse
        self.step = 0
        self.asked: list[int] = []
        self.made: dict[str, Sequence[float]] = {}

    def __call__(self, count: int) -> None:
        import torch

        self.asked.append(count)
        entries: list[tuple[str, dict[str, Any]]] = []
        for _ in range(count):
            name = f"{self.step:07d}-{len(self.made):06d}"
            self.made[name] = next(self.rewards)
            entries.append((name, {"is_prompt": True, "status": "finished", "global_steps": self.step}))
            for number, reward in enumerate(self.made[name]):
                key = f"{name}_{number}_0"
                entries.append((key, {"status": "success"}))
                self.queue.values[key] = {
                    "rm_scores": torch.tensor([0.0] * number + [reward]),
                    "extra_fields": {"reward_extra_info": part(exact=int(reward == 1.0))},
                    "prompts": torch.tensor([len(self.made)]),
                    "responses": torch.tensor([7] * (number + 1)),
                }
        self.queue.tags["train"].update(dict(reversed(entries) if self.reverse else entries))


def make_buffer(
    patch: pytest.MonkeyPatch, rewards: Iterator[Sequence[float]], batch: int, reverse: bool = False, **selection: Any
) -> tuple[Any, FakeRollouts]:
    from verl.trainer.ppo.v1 import replay_buffer
    from verl_srpo import replay, trainer

    queue = FakeQueue()
    for module in (replay_buffer, replay, trainer):
        patch.setattr(module, "tq", queue)
    rollouts = FakeRollouts(queue, rewards, reverse)
    buffer = replay.SrpoReplayBuffer(
        selection=GroupSelection(**{"enable": True, "max_num_gen_batches": 10, **selection}),
        train_batch_size=batch,
        trainer_mode="sync",
        trainer_config=None,
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs={},
        refill_fn=rollouts,
    )
    return buffer, rollouts


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, FakeRollouts]]:
    return partial(make_buffer, monkeypatch)


def sample(buffer: Any, rollouts: FakeRollouts, step: int, batch: int) -> tuple[list[str], Mapping[str, float]]:
    """The groups of a step's batch in the batch's order; the step is ended as verl ends it."""
    rollouts.step = step
    meta, metrics = buffer.sample(global_steps=step, partition_id="train", batch_size=batch)
    rollouts.queue.kv_clear(meta.keys, "train")
    return [key.split("_")[0] for key in meta.keys], metrics


DIFFERENT, FLAT = (0.0, 1.0), (0.5, 0.5)


def test_flat_groups_are_replaced_and_the_surplus_opens_the_next_step(build: Any) -> None:
    # Step 1: 4 asked, 1 kept; 3 missing at a rate of 1 in 4: 4 asked (the most), all kept, 1 left over.
    # Step 2: 3 asked, 3 kept. Step 3: 4 asked.
    rewards = itertools.chain([DIFFERENT, FLAT, FLAT, FLAT], itertools.repeat(DIFFERENT))
    buffer, rollouts = build(rewards, 4)
    first, metrics = sample(buffer, rollouts, 1, 4)
    assert rollouts.asked == [4, 4]
    assert sorted(set(first)) == [f"0000001-{number:06d}" for number in (0, 4, 5, 6)]
    assert len(first) == 8
    assert {name.removeprefix("srpo/groups/"): value for name, value in metrics.items()} == {
        "generations": 2,
        "generated": 8,
        "kept": 5,
        "replaced": 3,
        "carried": 0,
        "surplus": 1,
        "reward_generated": 0.5,
    }
    second, metrics = sample(buffer, rollouts, 2, 4)
    assert rollouts.asked == [4, 4, 3]
    assert "0000001-000007" in second
    assert (metrics["srpo/groups/carried"], metrics["srpo/groups/surplus"]) == (1, 0)
    sample(buffer, rollouts, 3, 4)
    assert rollouts.asked == [4, 4, 3, 4]


def test_a_step_that_finds_enough_surplus_generates_nothing(build: Any) -> None:
    buffer, rollouts = build(itertools.chain([FLAT] * 2, itertools.repeat(DIFFERENT)), 2, max_inflight_gen_batches=3)
    sample(buffer, rollouts, 1, 2)
    assert rollouts.asked == [2, 4] and len(rollouts.queue.tags["train"]) == 2 * 3
    _, metrics = sample(buffer, rollouts, 2, 2)
    assert rollouts.asked == [2, 4]
    assert (metrics["srpo/groups/generations"], metrics["srpo/groups/carried"]) == (0, 2)
    assert metrics["srpo/groups/reward_generated"] == 0.0


def test_the_bound_ends_the_run_with_the_statistics(build: Any) -> None:
    buffer, rollouts = build(itertools.chain([DIFFERENT], itertools.repeat(FLAT)), 2)
    with pytest.raises(
        GreamError, match=r"step 1: 10 generations of 20 groups gave 1 of 2 .* 19 did not differ \(19 at"
    ):
        sample(buffer, rollouts, 1, 2)


@settings(max_examples=60)
@given(
    rewards=st.lists(st.sampled_from([DIFFERENT, FLAT, (1.0, 1.0), (0.5, 0.25)]), min_size=0, max_size=40),
    batch=st.integers(1, 5),
    inflight=st.integers(1, 3),
)
def test_every_group_that_differs_is_trained_once_in_order_of_age(
    rewards: list[Sequence[float]], batch: int, inflight: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        outcomes = []
        for reverse in (False, True):
            endless = itertools.chain(rewards, itertools.repeat(DIFFERENT))
            buffer, rollouts = make_buffer(
                patch, endless, batch, reverse, max_inflight_gen_batches=inflight, max_num_gen_batches=100
            )
            trained: list[str] = []
            for step in range(1, 6):
                groups, metrics = sample(buffer, rollouts, step, batch)
                assert len(set(groups)) == batch
                trained += sorted(set(groups))
                assert metrics["srpo/groups/kept"] + metrics["srpo/groups/replaced"] == metrics["srpo/groups/generated"]
                left = [key for key, tag in rollouts.queue.tags["train"].items() if tag.get("is_prompt")]
                assert metrics["srpo/groups/surplus"] == len(left)
            differing = [name for name, values in rollouts.made.items() if min(values) < max(values)]
            assert trained == differing[: 5 * batch]
            assert sorted(left) == differing[5 * batch :]
            outcomes.append((trained, rollouts.asked))
        # The order in which rollouts finish changes nothing.
        assert outcomes[0] == outcomes[1]


def test_a_failed_rollout_ends_the_run(build: Any) -> None:
    buffer, rollouts = build(itertools.repeat(DIFFERENT), 2)
    rollouts.queue.tags["train"]["x"] = {"is_prompt": True, "status": "failure", "global_steps": 1}
    with pytest.raises(RuntimeError, match="failed for 1 prompts of 'train'"):
        sample(buffer, rollouts, 1, 2)


def test_after_a_resume_only_the_surplus_is_left(build: Any) -> None:
    from verl_srpo.trainer import drop_rollouts_without_group

    buffer, rollouts = build(itertools.chain([FLAT] * 2, itertools.repeat(DIFFERENT)), 2, max_inflight_gen_batches=3)
    rollouts.step = 1
    meta, _ = buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    # A checkpoint is taken here: the batch is trained, but still in the queue.
    drop_rollouts_without_group()
    left = set(rollouts.queue.tags["train"])
    assert not left & set(meta.keys)
    assert sorted(key for key in left if "_" not in key) == ["0000001-000004", "0000001-000005"]
    assert len(left) == 2 * 3


# Parts of the reward.


def test_parts_must_be_the_same_for_every_rollout() -> None:
    from verl_srpo.rollouts import reward_parts

    assert reward_parts([{"reward_extra_info": part()}, {"reward_extra_info": part(1)}])[1]["exact"] == 1
    with pytest.raises(GreamError, match=r"differ between rollouts \(extra\)"):
        reward_parts([{"reward_extra_info": part()}, {"reward_extra_info": {**part(), "extra": 1}}])
    with pytest.raises(GreamError, match=r"reward_manager\.name=srpo"):
        reward_parts([{"reward_extra_info": {"score": 1.0}}])


def test_rollouts_are_written_with_what_they_earned(tmp_path: Path) -> None:
    from verl_srpo.rollouts import rollout_rows

    item = "<|a_1|><|b_2|>"
    rows = rollout_rows(
        5,
        keys=["0000004-000001_0_0", "0000004-000001_1_0"],
        prompts=["ask"] * 2,
        responses=[f"<think>\né\n</think>\n<answer>{item}</answer>", "<think>\nno end"],
        truths=[item] * 2,
        rewards=[1.0, 0.0],
        parts=[part(exact=1, level=2), part()],
        advantages=[1.9, -1.9],
        bonuses=[1.2, -1.2],
        policy_steps=[3, 3],
    )
    path = tmp_path / "5.jsonl"
    write_jsonl(path, rows)
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first == {
        "step": 5,
        "group": "0000004-000001",
        "rollout": 0,
        "policy_step": 3,
        "prompt": "ask",
        "chain": "<think>\né\n</think>\n",
        "answer": item,
        "response": f"<think>\né\n</think>\n<answer>{item}</answer>",
        "truth": item,
        "reward": 1.0,
        **part(exact=1, level=2),
        "advantage": 1.9,
        "bonus": 1.2,
    }
    assert (second["rollout"], second["chain"], second["answer"]) == (1, "<think>\nno end", None)
    assert [path.name for path in path.parent.iterdir()] == ["5.jsonl"]


# Numbers of draws.


def test_equal_prompts_of_one_step_get_different_draws() -> None:
    from tensordict import TensorDict
    from tensordict.tensorclass import NonTensorData
    from verl.utils.tensordict_utils import assign_non_tensor_stack
    from verl_srpo.dispatch import FIRST_DRAW, NumberedDispatch

    sent: list[list[int]] = []
    manager = SimpleNamespace(generate_sequences=lambda batch: sent.append(list(batch[FIRST_DRAW])))
    dispatch = NumberedDispatch(manager, rollouts=4, validation_rollouts=2)

    def send(texts: str, step: int, validate: bool = False) -> list[int]:
        batch = TensorDict({}, batch_size=[len(texts)])
        assign_non_tensor_stack(batch, "raw_prompt", [[{"role": "user", "content": text}] for text in texts])
        batch["global_steps"] = NonTensorData(step)
        if validate:
            batch["validate"] = NonTensorData(True)
        dispatch.generate_sequences(batch)
        return sent[-1]

    assert send("aba", 1) == [0, 0, 4]
    # A second generation of the same step goes on; validation and the next step begin anew.
    assert send("bca", 1) == [4, 0, 8]
    assert send("aa", 1, validate=True) == [0, 2]
    assert send("ab", 2) == [0, 0]
