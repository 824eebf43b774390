"""SRPO through the real ``verl.trainer.main_ppo`` with the quickstart recipe, on a task made and learnt here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from srpo_support import CHECKPOINT, STEPS, VALIDATION_RESPONSES, VALIDATION_ROWS, Run, kill, make_task, tiny_catalog

BATCH = 8

# With groups of 4, some of which do not differ, so that groups are replaced and left over.
DYNAMIC = (
    "algorithm.filter_groups.enable=true",
    "algorithm.filter_groups.max_num_gen_batches=10",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.optim.lr=5e-4",
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_task`."""
    return make_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def listeners() -> dict[str, set[str]]:
    """Addresses that processes of the training listened on, by process."""
    return {}


@pytest.fixture(scope="module")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory, listeners: dict[str, set[str]]) -> Iterator[Run]:
    """A training that nothing interrupts."""
    run = Run(task, tmp_path_factory.mktemp("finished") / "run")
    process = run.start(*DYNAMIC)

    def watch() -> bool:
        for member in [process, *process.children(recursive=True)]:
            try:
                for connection in member.net_connections(kind="tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        listeners.setdefault(connection.laddr.ip, set()).add(member.name())
            except psutil.Error:
                continue
        return False

    status = run.wait(process, watch)
    assert status == 0, run.log[-4000:]
    yield run
    shutil.rmtree(run.folder)


def comparable(record: dict[str, float]) -> dict[str, float]:
    """What a step computed, without how long it took and how much memory the machine had."""
    return {key: value for key, value in record.items() if "timing" not in key and "perf/" not in key}


def test_metrics_are_there_and_rewards_go_up(finished: Run) -> None:
    records = finished.records
    assert sorted(records) == list(range(STEPS + 1))
    for step in range(1, STEPS + 1):
        metrics = records[step]
        levels = [metrics[f"srpo/match_level/{level}"] for level in range(4)]
        assert sum(levels) == pytest.approx(1)
        assert metrics["srpo/exact_hits"] == pytest.approx(levels[3])
        assert metrics["srpo/reward"] == pytest.approx(metrics["critic/score/mean"], abs=1e-6)
        assert metrics["srpo/pass_at_4"] >= metrics["srpo/exact_hits"]
        assert metrics["srpo/format_ok"] > 0.5
        assert metrics["actor/grad_norm"] > 0
        # The server samples from the policy that is trained.
        assert metrics["srpo/policy_gap/fresh"] < 1e-5
    # Of all that was generated: what is kept of it is not to be compared between steps.
    rewards = [records[step]["srpo/groups/reward_generated"] for step in range(1, STEPS + 1)]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.1
    validation = f"val-core/gream/reward/mean@{VALIDATION_RESPONSES}"
    assert records[STEPS][validation] > records[0][validation] + 0.1
    assert records[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    assert records[STEPS]["actor/kl_loss"] > 1e-6


def test_groups_without_differences_are_replaced_and_the_surplus_is_trained_later(finished: Run) -> None:
    surplus = 0.0
    records = finished.records
    for step in range(1, STEPS + 1):
        metrics = records[step]
        groups = {name: metrics[f"srpo/groups/{name}"] for name in ("generated", "kept", "replaced", "carried")}
        assert metrics["srpo/zero_variance_groups"] == 0
        assert groups["generated"] == groups["kept"] + groups["replaced"]
        assert groups["carried"] == surplus
        assert groups["carried"] + groups["kept"] == BATCH + metrics["srpo/groups/surplus"]
        # What was carried over came from the policy before the last update.
        assert (metrics["srpo/policy_gap/carried"] > 1e-5) == (surplus > 0)
        assert metrics["training/off_policy/trajectory_staleness/max"] == float(surplus > 0)
        surplus = metrics["srpo/groups/surplus"]
    assert sum(records[step]["srpo/groups/replaced"] for step in range(1, STEPS + 1)) > 0
    assert sum(records[step]["srpo/groups/carried"] for step in range(1, STEPS + 1)) > 0
    # The surplus of the checkpoint that is kept, and of no other.
    assert [path.parent.name for path in finished.folder.glob("*/transfer_queue")] == [f"global_step_{STEPS}"]


def test_sampled_rollouts_are_written(finished: Run) -> None:
    for step in range(1, STEPS + 1):
        text = (finished.folder / "rollouts" / f"{step}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
        assert len(groups) == BATCH and all(len(members) == 4 for members in groups.values())
        assert {row["policy_step"] for row in rows} <= {step - 2, step - 1}
        for members in groups.values():
            assert len({(row["prompt"], row["truth"]) for row in members}) == 1
            assert sum(row["advantage"] for row in members) == pytest.approx(0, abs=1e-4)
            assert all((row["truth"] == row["answer"]) == row["exact"] for row in members)
            best, worst = max(members, key=lambda row: row["reward"]), min(members, key=lambda row: row["reward"])
            assert best["advantage"] > 0 > worst["advantage"]


def test_validation_responses_are_dumped_before_and_after(finished: Run) -> None:
    means = []
    for step in (0, STEPS):
        path = finished.folder / "validation" / f"{step}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == VALIDATION_ROWS * VALIDATION_RESPONSES
        assert all({"input", "output", "score", "exact", "match_level"} <= row.keys() for row in rows)
        assert all("<answer>" in row["output"] for row in rows)
        means.append(sum(row["score"] for row in rows) / len(rows))
    assert means[1] > means[0]


def test_the_terminal_shows_progress(finished: Run) -> None:
    assert "Training Progress: 100%" in finished.log
    assert f"step:{STEPS} - " in finished.log


def test_nothing_listens_beyond_this_machine(finished: Run, listeners: dict[str, set[str]]) -> None:
    assert listeners
    assert not {ip: names for ip, names in listeners.items() if not ip.removeprefix("::ffff:").startswith("127.")}


def test_the_trained_model_loads_and_has_learnt(finished: Run) -> None:
    import torch
    from gream.dialogue import extract_answer, reasoning_prompt, render_prompt
    from gream.engine.contract import read_contract
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.folder / f"global_step_{STEPS}" / "actor" / "huggingface"
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    contract = read_contract(finished.task / "model")
    assert contract is not None and read_contract(folder) == contract
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    catalog = tiny_catalog()
    prompt = tokenizer(render_prompt(reasoning_prompt([catalog.text(3), catalog.text(40)])), return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    answer = extract_answer(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]))
    assert answer is not None
    assert catalog.item_in(answer) is not None
    before = AutoModelForCausalLM.from_pretrained(finished.task / "model", dtype=torch.float32)
    assert any(not torch.equal(old, new) for old, new in zip(before.parameters(), model.parameters(), strict=True))


@pytest.mark.slow
def test_killed_and_resumed_it_does_what_an_uninterrupted_run_does(finished: Run, tmp_path: Path) -> None:
    run = Run(finished.task, tmp_path / "run")
    process = run.start(*DYNAMIC)
    metrics = run.folder / "metrics.jsonl"
    ended = run.wait(process, lambda: metrics.exists() and CHECKPOINT + 1 in run.records)
    assert ended is None, run.log[-4000:]
    kill(process)
    before = run.records
    assert (run.folder / "latest_checkpointed_iteration.txt").read_text() == str(CHECKPOINT)
    assert (run.folder / f"global_step_{CHECKPOINT}" / "transfer_queue").is_dir()
    # One seed, one result: the killed run had done the same steps as the other.
    for step in before:
        assert comparable(before[step]) == comparable(finished.records[step]), f"step {step}"

    assert run.wait(run.start(*DYNAMIC)) == 0, run.log[-4000:]
    after = run.records
    assert sorted(after) == list(range(STEPS + 1))
    for step in after:
        assert comparable(after[step]) == comparable(finished.records[step]), f"step {step}"
    # The steps before the checkpoint are the killed run's own records.
    assert all(after[step] == before[step] for step in range(CHECKPOINT + 1))


@pytest.mark.slow
def test_bad_rows_end_the_run_with_the_error_line(task: Path, tmp_path: Path) -> None:
    import polars as pl

    rows = pl.DataFrame({"reward_model": [{"style": "rule", "ground_truth": "<|z_9|>"}]})
    rows.write_parquet(tmp_path / "other.parquet")
    run = Run(task, tmp_path / "run")
    status = run.wait(run.start(f"data.train_files={tmp_path}/other.parquet"))
    assert status not in (0, None)
    assert f"GreamError: {tmp_path}/other.parquet: row 0: ground truth '<|z_9|>' is no item" in run.log
