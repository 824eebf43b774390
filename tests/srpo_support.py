"""A tiny language model and a tiny task for the SRPO tests: both made here, neither downloaded."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from gream.dialogue import CHAT_TEMPLATE, Form, ReasonedAnswer, reasoning_prompt, render_prompt
from gream.engine.contract import Contract, ids_digest, prompt_version
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token

ROOT = Path(__file__).resolve().parent.parent

LEVELS = 3
CODES = 4
STEPS = 8
CHECKPOINT = 4
VALIDATION_ROWS = 16
VALIDATION_RESPONSES = 2
SECONDS = 600

THOUGHT = ("seen", "liked", "wanted", "so")


def tiny_tokenizer() -> Any:
    """Words and marks of the dialogue as whole tokens, semantic ids as added ones, bytes for everything else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    answer = ReasonedAnswer(*THOUGHT, history=(), answer="").render()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([render_prompt(reasoning_prompt([])), answer] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens([level_token(level, code) for level in range(LEVELS) for code in range(CODES)])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(tokenizer: Any, seed: int = 0, head_dim: int = 16, *, tied: bool = True) -> Any:
    """A Qwen3 of two layers with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def tiny_catalog() -> Catalog:
    """An item for each of the 64 combinations of codes."""
    return Catalog(
        [
            [level_token(level, code) for level, code in enumerate(codes)]
            for codes in product(range(CODES), repeat=LEVELS)
        ]
    )


def teach_format(model: Any, tokenizer: Any, catalog: Catalog, steps: int) -> None:
    """Train until answers are well formed; the item they name is drawn at random, so there is something to learn."""
    import torch

    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(steps):
        prompts, answers = [], []
        for _ in range(16):
            items = [draw.randrange(len(catalog)) for _ in range(3)]
            shown = [catalog.text(item) for item in items[:2]]
            answer = ReasonedAnswer(*THOUGHT, history=(), answer=catalog.text(items[2])).render()
            prompts.append(tokenizer(render_prompt(reasoning_prompt(shown)))["input_ids"])
            answers.append(tokenizer(answer + "<|im_end|>")["input_ids"])
        width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        ids = torch.full((16, width), tokenizer.pad_token_id)
        labels = torch.full((16, width), -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()


def write_rl_rows(path: Path, catalog: Catalog, items: Sequence[int], targets: Sequence[int], count: int) -> None:
    """Rows as the pipeline writes them: histories of two of ``items``, targets drawn from ``targets``."""
    import polars as pl

    draw = random.Random(str(path.name))
    rows = []
    for number in range(count):
        shown = [catalog.text(draw.choice(items)) for _ in range(2)]
        rows.append(
            {
                "data_source": "gream",
                "prompt": reasoning_prompt(shown),
                "ability": "recommendation",
                "reward_model": {"style": "rule", "ground_truth": catalog.text(draw.choice(targets))},
                "extra_info": {"index": number, "user": number, "split": path.stem},
            }
        )
    pl.DataFrame(rows).write_parquet(path)


def read_records(path: Path) -> dict[int, dict[str, float]]:
    """Metrics by step from verl's file logger; what is logged twice for one step is merged."""
    records: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        records.setdefault(record["step"], {}).update(record["data"])
    return records


def make_task(folder: Path, head_dim: int = 16) -> Path:
    """Model, catalogue and rows: answers are well formed from the start, the right ones are few and easily learnt."""
    tokenizer, catalog = tiny_tokenizer(), tiny_catalog()
    model = tiny_model(tokenizer, head_dim=head_dim)
    teach_format(model, tokenizer, catalog, steps=400)
    agreed = Contract(ids=ids_digest(catalog.ids), form=Form.question, history=2, prompts=prompt_version(Form.question))
    model.config.gream = agreed.model_dump(mode="json")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    catalog.save(folder / "index.json")
    items = range(len(catalog))
    write_rl_rows(folder / "train.parquet", catalog, items, [27], 48)
    write_rl_rows(folder / "val.parquet", catalog, items, [27], VALIDATION_ROWS)
    return folder


def with_fewer_items(task: Path, folder: Path) -> Path:
    """The same task with a third of the items that the model was taught, the one to be learnt among them."""
    shutil.copytree(task, folder)
    ids = tiny_catalog().ids[::3]
    Catalog(ids).save(folder / "index.json")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["gream"]["ids"] = ids_digest(ids)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder


class Run:
    """One training in its own folder.

    Attributes:
        task: From `make_task`.
        folder: Checkpoints, metrics and validation responses.
        modules: Further modules that every process of verl imports.
        recipe: Name of the recipe.
    """

    def __init__(self, task: Path, folder: Path, *modules: str, recipe: str = "quickstart") -> None:
        self.task = task
        self.modules = modules
        self.recipe = recipe
        self.folder = folder
        folder.mkdir(parents=True)

    @property
    def records(self) -> dict[int, dict[str, float]]:
        return read_records(self.folder / "metrics.jsonl")

    @property
    def has_metrics(self) -> bool:
        """Whether a first step was logged."""
        path = self.folder / "metrics.jsonl"
        return path.exists() and path.stat().st_size > 0

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    def start(self, *overrides: str) -> psutil.Popen:
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT), str(ROOT / "tests")]),
            "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_MODULES": ",".join(["verl_srpo.plugin", *self.modules]),
            "VERL_FILE_LOGGER_PATH": str(self.folder / "metrics.jsonl"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.folder / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's workers are polite (15): beside other work they would hardly get on.
            "RAY_worker_niceness": "0",
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
                    *("--config-dir", str(ROOT / "recipes" / "rl"), "--config-name", self.recipe),
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
