"""SRPO through the real ``verl.trainer.main_ppo`` with the quickstart recipe, on a task made and learnt here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from srpo_support import read_records, teach_format, tiny_catalog, tiny_model, tiny_tokenizer, write_rl_rows

ROOT = Path(__file__).resolve().parent.parent
STEPS = 8
CHECKPOINT = 4
VALIDATION_ROWS = 16
VALIDATION_RESPONSES = 2
SECONDS = 300

pytestmark = pytest.mark.e2e


class Run:
    """One training in its own folder.

    Attributes:
        folder: Checkpoints, metrics and validation responses.
    """

    def __init__(self, task: Path, folder: Path) -> None:
        self.task = task
        self.folder = folder
        folder.mkdir()

    @property
    def records(self) -> dict[int, dict[str, float]]:
        return read_records(self.folder / "metrics.jsonl")

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def start(self, *overrides: str) -> psutil.Popen:
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
            "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin",
            "VERL_FILE_LOGGER_PATH": str(self.folder / "metrics.jsonl"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.folder / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
            "HYDRA_FULL_ERROR": "1",
        }
        arguments = {
            "algorithm.srpo.catalog": self.task / "index.json",
            "data.train_files": self.task / "train.parquet",
            "data.val_files": self.task / "val.parquet",
            "data.train_batch_size": 8,
            "data.max_prompt_length": 96,
            "data.max_response_length": 48,
            "actor_rollout_ref.model.path": self.task / "model",
            "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
            "actor_rollout_ref.actor.optim.lr": 1e-3,
            "actor_rollout_ref.actor.optim.lr_warmup_steps": 0,
            "actor_rollout_ref.rollout.val_kwargs.n": VALIDATION_RESPONSES,
            "trainer.total_training_steps": STEPS,
            "trainer.save_freq": CHECKPOINT,
            "trainer.test_freq": STEPS,
            "trainer.default_local_dir": self.folder,
            "trainer.validation_data_dir": self.folder / "validation",
        }
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            return psutil.Popen(
                [
                    *(sys.executable, "-m", "verl.trainer.main_ppo"),
                    *("--config-dir", str(ROOT / "recipes" / "rl"), "--config-name", "quickstart"),
                    *(f"{key}={value}" for key, value in arguments.items()),
                    *overrides,
                ],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, process: psutil.Popen, until: Callable[[], bool] = lambda: False) -> int | None:
        """The exit status, or None where ``until`` came true before the end."""
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and not until():
            if time.monotonic() > deadline:
                kill(process)
                pytest.fail(f"no end after {SECONDS} s:\n{self.log[-4000:]}")
            time.sleep(0.2)
        return process.poll()


def kill(process: psutil.Popen) -> None:
    """Kill a training with all of its processes, at once and without a warning."""
    family = [process, *process.children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=20)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, catalogue and rows: answers are well formed from the start, the right ones are few and easily learnt."""
    folder = tmp_path_factory.mktemp("task")
    tokenizer, catalog = tiny_tokenizer(), tiny_catalog()
    model = tiny_model(tokenizer)
    teach_format(model, tokenizer, catalog, steps=400)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    catalog.save(folder / "index.json")
    items = range(len(catalog))
    write_rl_rows(folder / "train.parquet", catalog, items, [27], 48)
    write_rl_rows(folder / "val.parquet", catalog, items, [27], VALIDATION_ROWS)
    return folder


@pytest.fixture(scope="module")
def listeners() -> dict[str, set[str]]:
    """Addresses that processes of the training listened on, by process."""
    return {}


@pytest.fixture(scope="module")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory, listeners: dict[str, set[str]]) -> Iterator[Run]:
    """A training that nothing interrupts."""
    run = Run(task, tmp_path_factory.mktemp("finished") / "run")
    process = run.start()

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
        assert 0 <= metrics["srpo/zero_variance_groups"] <= 1
        assert metrics["srpo/format_ok"] > 0.5
        assert metrics["actor/grad_norm"] > 0
        # The server samples from the policy that is trained.
        assert metrics["training/rollout_probs_diff_max"] < 1e-4
    rewards = [records[step]["srpo/reward"] for step in range(1, STEPS + 1)]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.1
    validation = f"val-core/gream/reward/mean@{VALIDATION_RESPONSES}"
    assert records[STEPS][validation] > records[0][validation] + 0.1
    assert records[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    assert records[STEPS]["actor/kl_loss"] > 1e-6


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.folder / f"global_step_{STEPS}" / "actor" / "huggingface"
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    catalog = tiny_catalog()
    prompt = tokenizer(render_prompt(reasoning_prompt([catalog.text(3), catalog.text(40)])), return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    answer = extract_answer(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]))
    assert answer is not None
    assert catalog.item_in(answer) is not None
    before = AutoModelForCausalLM.from_pretrained(finished.task / "model", dtype=torch.float32)
    assert any(not torch.equal(old, new) for old, new in zip(before.parameters(), model.parameters(), strict=True))


def test_killed_and_resumed_it_does_what_an_uninterrupted_run_does(finished: Run, tmp_path: Path) -> None:
    run = Run(finished.task, tmp_path / "run")
    process = run.start()
    metrics = run.folder / "metrics.jsonl"
    ended = run.wait(process, lambda: metrics.exists() and CHECKPOINT + 1 in run.records)
    assert ended is None, run.log[-4000:]
    kill(process)
    before = run.records
    assert (run.folder / "latest_checkpointed_iteration.txt").read_text() == str(CHECKPOINT)
    # One seed, one result: the killed run had done the same steps as the other.
    for step in before:
        assert comparable(before[step]) == comparable(finished.records[step]), f"step {step}"

    assert run.wait(run.start()) == 0, run.log[-4000:]
    after = run.records
    assert sorted(after) == list(range(STEPS + 1))
    for step in after:
        assert comparable(after[step]) == comparable(finished.records[step]), f"step {step}"
    # The steps before the checkpoint are the killed run's own records.
    assert all(after[step] == before[step] for step in range(CHECKPOINT + 1))


def test_bad_rows_end_the_run_with_the_error_line(task: Path, tmp_path: Path) -> None:
    import polars as pl

    rows = pl.DataFrame({"reward_model": [{"style": "rule", "ground_truth": "<|z_9|>"}]})
    rows.write_parquet(tmp_path / "other.parquet")
    run = Run(task, tmp_path / "run")
    status = run.wait(run.start(f"data.train_files={tmp_path}/other.parquet"))
    assert status not in (0, None)
    assert f"GreamError: {tmp_path}/other.parquet: row 0: ground truth '<|z_9|>' is no item" in run.log
