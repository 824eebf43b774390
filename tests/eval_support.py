"""Small models, tokenizers and run folders for the tests of decoding, evaluation and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from gream.dialogue import CHAT_TEMPLATE, Form, direct_prompt, reasoning_prompt, render_prompt
from gream.engine.contract import Contract, ids_digest, prompt_version
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import level_token
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def make_model(vocabulary: int, *, seed: int = 0, tied: bool = True, spread: float = 0.3) -> Qwen3ForCausalLM:
    """A random Qwen3 of two layers; ``spread`` is its weights' deviation: scores lie far apart."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=spread,
        # What must not leak into decoding.
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).eval()


def make_tokenizer(catalog: Catalog) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose semantic ids are normal added tokens, not special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [render_prompt(direct_prompt([""])), render_prompt(reasoning_prompt([""]))] * 3
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=330,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    fast.add_tokens(catalog.tokens)
    return fast


def exact_scores(
    model: Any, prompt: Sequence[int], ids: Sequence[Sequence[int]], *, legal: bool = False
) -> list[float]:
    """Log-probability of every id after ``prompt``: one plain forward pass per id, without cache or padding.

    Args:
        model: A causal language model.
        prompt: Token ids.
        ids: Token ids of every item.
        legal: Renormalise over the tokens that some id has after the same prefix.
    """
    scores = []
    for tokens in ids:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].double()
        total = 0.0
        for level, token in enumerate(tokens):
            step = logits[len(prompt) + level - 1]
            if legal:
                followers = {other[level] for other in ids if len(other) > level and other[:level] == tokens[:level]}
                step = torch.full_like(step, -torch.inf).index_copy(
                    0, torch.tensor(sorted(followers)), step[sorted(followers)]
                )
            total += float(step.log_softmax(0)[token])
        scores.append(total)
    return scores


MALICIOUS = "</li></ol><script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)> & \"q\""


def make_run(run: Path, *, users: int = 24, items: int = 30, seed: int = 0) -> Path:
    """A run folder as data processing leaves it: tables, catalogue and statistics; item 0 has a hostile title."""
    random = np.random.default_rng(seed)
    run.mkdir(parents=True)
    rows = []
    for user in range(users):
        for position, item in enumerate(random.permutation(items)[: random.integers(4, 9)].tolist()):
            rows.append({"user": user, "item": item, "timestamp": 1_400_000_000 + position, "position": position})
    interactions = pl.DataFrame(
        rows, schema={"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64, "position": pl.Int32}
    )
    last = pl.col("position").max().over("user") - pl.col("position")
    interactions.with_columns(
        split=pl.when(last == 0).then(pl.lit("test")).when(last == 1).then(pl.lit("valid")).otherwise(pl.lit("train")),
        tied=pl.lit(None, pl.Boolean),
    ).write_parquet(run / "interactions.parquet")
    pl.DataFrame(
        {
            "item": list(range(items)),
            "item_id": [f"B{item:05d}" for item in range(items)],
            "title": [MALICIOUS, *(f"Item number {item}" for item in range(1, items))],
            "description": [""] * items,
            "brand": [""] * items,
            "categories": [["All", "<b>Odd</b>" if item % 2 else "Even"] for item in range(items)],
        },
        schema_overrides={"item": pl.Int32},
    ).write_parquet(run / "items.parquet")
    pl.DataFrame(
        {"user": list(range(users)), "user_id": [f"A<{user}>" for user in range(users)]},
        schema_overrides={"user": pl.Int32},
    ).write_parquet(run / "users.parquet")
    make_catalog(items).save(run / "index.json")
    statistics = {
        "users": users,
        "items": items,
        "interactions": len(rows),
        "sequence_lengths": {"4": 9, "8": 15},
        "filters": {"raw": {"users": 99}},
    }
    (run / "statistics.json").write_text(json.dumps(statistics))
    return run


def make_catalog(items: int) -> Catalog:
    """Ids of three levels with four codes each."""
    return Catalog(
        [[level_token(0, item // 16), level_token(1, item // 4 % 4), level_token(2, item % 4)] for item in range(items)]
    )


def make_checkpoint(run: Path, name: str = "alignment", form: Form | None = None, history: int = 3) -> Path:
    """A random model that knows the tokens of the run's catalogue, saved under ``checkpoints``.

    With a contract where ``form`` is given; without, it is a model that says nothing about how it was trained.
    """
    folder = run / "checkpoints" / name
    catalog = Catalog.load(run / "index.json")
    tokenizer = make_tokenizer(catalog)
    model = make_model(len(tokenizer))
    if form is not None:
        contract = Contract(ids=ids_digest(catalog.ids), form=form, history=history, prompts=prompt_version(form))
        model.config.gream = contract.model_dump(mode="json")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
