"""A tiny language model and a tiny task for the SRPO tests: both made here, neither downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from gream.dialogue import CHAT_TEMPLATE, ReasonedAnswer, reasoning_prompt, render_prompt
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token

LEVELS = 3
CODES = 4
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


def tiny_model(tokenizer: Any, seed: int = 0) -> Any:
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
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
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
