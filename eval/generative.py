"""Predictions of a model, in chunks that survive a kill: direct (prompt, then item) or reasoned (chain in between)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from gream.decoding.beam import Score, TrieBeamSearch
from gream.decoding.chain import Chain, ChainWriter, Sampling
from gream.decoding.language_model import batches_by_length
from gream.dialogue import ANSWER_OPEN, Form, direct_text, reasoning_prompt, render_prompt
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie
from tqdm import tqdm

from eval.protocol import Cases
from eval.results import K, predictions_table

Device = Literal["auto", "cpu", "cuda"]

# Batches whose users are sorted by length together, and which a kill may cost.
_BATCHES_PER_CHUNK = 4


@dataclass(frozen=True)
class Decoding:
    """How a model is asked.

    Attributes:
        beams: Hypotheses per step of the item search.
        batch_size: Users per batch.
        score: What an item's score is, see `TrieBeamSearch`.
        history: Most recent items in the prompt.
        device: "cpu" or "cuda".
        chain_tokens: Most tokens of a chain; None asks for the item directly.
        temperature: Of the chain; 0 is greedy.
        seed: Of sampled chains.
        form: Of the direct prompt, as the model was trained on it.
    """

    beams: int
    batch_size: int
    score: Score
    history: int
    device: str
    chain_tokens: int | None
    temperature: float
    seed: int
    form: Form = "question"


def resolve_device(device: Device) -> str:
    """What ``device`` stands for on this machine: "cuda" or "cpu".

    Raises:
        GreamError: "cuda" is asked for and absent.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise GreamError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """Weights, configuration and tokenizer of a checkpoint folder, without logs and optimizer states.

    Raises:
        GreamError: The folder is no Hugging Face checkpoint.
    """
    for wanted in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(checkpoint.glob(wanted)):
            raise GreamError(
                f"{checkpoint}: no {wanted}; name a folder in Hugging Face format "
                "(a verl checkpoint is turned into one by verl.model_merger)"
            )
    kinds = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt")
    return sorted({path for kind in kinds for path in checkpoint.glob(kind)})


class Recommender:
    """A checkpoint that recommends items of a catalogue."""

    def __init__(self, checkpoint: Path, catalog: Catalog, decoding: Decoding) -> None:
        """Load model and tokenizer.

        Raises:
            GreamError: The tokenizer lacks a token of the catalogue, or a setting is impossible.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        if decoding.history < 1:
            raise GreamError(f"--history {decoding.history}: 1 or more needed")
        self._catalog = catalog
        self._decoding = decoding
        logging.disable_progress_bar()  # its bar over weights would stand where the one over users begins
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            # Explicit: float32 where the processor has nothing faster, and the usual training type on a GPU.
            dtype=torch.float32 if decoding.device == "cpu" else torch.bfloat16,
            attn_implementation="sdpa",
            local_files_only=True,
        )
        model = model.to(decoding.device).eval()
        trie = PrefixTrie.build(_token_ids(catalog, self._tokenizer, checkpoint))
        self._room = trie.depth
        self._limit: int = model.config.max_position_embeddings
        self._search = TrieBeamSearch(model, trie, k=K, beams=decoding.beams, score=decoding.score)
        self._writer: ChainWriter | None = None
        if decoding.chain_tokens is not None:
            sampling = Sampling(decoding.temperature, decoding.seed) if decoding.temperature else None
            self._writer = ChainWriter(
                model,
                self._tokenizer,
                budget=decoding.chain_tokens,
                batch_size=decoding.batch_size,
                sampling=sampling,
            )

    def prompts(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of the prompt of each history.

        Raises:
            GreamError: A prompt leaves no room for chain and item in the model's context.
        """
        texts = [
            self._ask([self._catalog.text(item) for item in history[-self._decoding.history :]])
            for history in histories
        ]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        room = self._room
        if self._decoding.chain_tokens is not None:
            # <answer> may be appended to a full chain; it has no more tokens than characters.
            room += self._decoding.chain_tokens + len(ANSWER_OPEN)
        longest = max(map(len, ids))
        if longest + room > self._limit:
            raise GreamError(
                f"the longest prompt has {longest} tokens and up to {room} follow, but the model has "
                f"{self._limit} positions; lower --history or --chain-tokens"
            )
        return ids

    def _ask(self, history: Sequence[str]) -> str:
        if self._writer is None:
            return direct_text(history, self._decoding.form)
        return render_prompt(reasoning_prompt(history))

    def predict(self, prompts: Sequence[Sequence[int]], cases: Cases) -> pl.DataFrame:
        """Predictions for ``cases``, in their order."""
        chains: list[Chain] | None = None
        prefixes = prompts
        if self._writer is not None:
            chains = self._writer.write(prompts, keys=cases.users.tolist())
            prefixes = [[*prompt, *chain.tokens] for prompt, chain in zip(prompts, chains, strict=True)]
        items = np.empty((len(prompts), self._search.k), dtype=np.int64)
        scores = np.empty((len(prompts), self._search.k), dtype=np.float32)
        for batch in batches_by_length(prefixes, self._decoding.batch_size):
            found = self._search.search([prefixes[index] for index in batch])
            items[batch], scores[batch] = found.items, found.scores
        return predictions_table(
            cases.users,
            cases.targets,
            items,
            scores,
            [None] * len(prompts) if chains is None else [chain.text for chain in chains],
            [None] * len(prompts) if chains is None else [not chain.complete for chain in chains],
        )


def _token_ids(catalog: Catalog, tokenizer: Any, checkpoint: Path) -> list[list[int]]:
    known = tokenizer.get_vocab()
    lacking = [token for token in catalog.tokens if token not in known]
    if lacking:
        raise GreamError(
            f"{checkpoint}: the tokenizer lacks {lacking[0]} and {len(lacking) - 1} other semantic-id tokens; "
            "train a model that was extended with this run's index.json"
        )
    return [[known[token] for token in tokens] for tokens in catalog.ids]


def predict_in_chunks(recommender: Recommender, cases: Cases, size: int, parts: Path) -> tuple[pl.DataFrame, float]:
    """Predict chunk by chunk, skipping those that an earlier, killed run left in ``parts``.

    The chunks depend on ``cases`` and ``size`` alone, so a resumed run computes each batch as an unbroken one
    does.

    Args:
        recommender: The model.
        cases: Whom to ask.
        size: Users per batch.
        parts: Folder of finished chunks.

    Returns:
        All predictions, and the seconds they took in all runs together.
    """
    parts.mkdir(exist_ok=True)
    step = size * _BATCHES_PER_CHUNK
    starts = range(0, len(cases.users), step)
    prompts = recommender.prompts(cases.histories)
    done = [parts / f"{start:09d}.parquet" for start in starts]
    finished = sum(
        min(step, len(cases.users) - start) for start, path in zip(starts, done, strict=True) if path.exists()
    )
    # A log file gets a line now and then, a terminal a moving bar.
    interval = 0.5 if sys.stderr.isatty() else 15.0
    with tqdm(
        total=len(cases.users), initial=finished, unit=" users", dynamic_ncols=True, mininterval=interval
    ) as progress:
        for start, path in zip(starts, done, strict=True):
            if path.exists():
                continue
            rows = slice(start, start + step)
            began = time.monotonic()
            some = Cases(cases.users[rows], cases.targets[rows], cases.histories[rows])
            table = recommender.predict(prompts[rows], some)
            temporary = path.with_suffix(".tmp")
            table.with_columns(seconds=pl.lit(time.monotonic() - began)).write_parquet(temporary)
            os.replace(temporary, path)
            progress.update(len(table))
    tables = [pl.read_parquet(path) for path in done]
    seconds = sum(float(table["seconds"][0]) for table in tables)
    return pl.concat(tables).drop("seconds"), seconds
