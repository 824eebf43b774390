"""Predictions of a model, in chunks that survive a kill: direct (prompt, then item) or reasoned (chain in between)."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.decoding.beam import TrieBeamSearch
from gream.decoding.chain import ChainWriter, Sampling
from gream.decoding.chain_text import Chain
from gream.decoding.language_model import batches_by_length
from gream.errors import GreamError
from gream.files import write_atomically
from gream.processes import Processes
from gream.semantic_ids.trie import PrefixTrie
from gream.tables import read_table
from tqdm import tqdm

from .asking import Asking, encode_prompts
from .checkpoint import catalogue_token_ids, load_checkpoint
from .external import ItemIds, PromptTemplate
from .protocol import Cases
from .results import predictions_table

# Batches whose users are sorted by length together, and which a kill may cost.
_BATCHES_PER_CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class Decoding(Asking):
    """How a model in this process is asked.

    Attributes:
        batch_size: Users per batch; chains, where each user gets several.
        device: "cpu" or "cuda".
    """

    batch_size: int
    device: str


@dataclass(frozen=True)
class _Answer:
    """What one user gets; ``chain`` is the one that the first item is likeliest after."""

    items: list[int]
    scores: list[float]
    chain: Chain | None
    malformed: int
    written: int


class Recommender:
    """A checkpoint that recommends items of a catalogue."""

    def __init__(
        self, checkpoint: Path, ids: ItemIds, decoding: Decoding, template: PromptTemplate | None = None
    ) -> None:
        """Load model and tokenizer.

        Args:
            checkpoint: Folder in Hugging Face format.
            ids: The ids that the model knows items by.
            decoding: How to ask.
            template: Prompt of a model trained elsewhere; None for this project's own.

        Raises:
            GreamError: The tokenizer lacks a token of the ids, or the beams are too few.
        """
        self._ids = ids
        self._decoding = decoding
        self._template = template
        model, self._tokenizer = load_checkpoint(checkpoint, decoding.device)
        trie = PrefixTrie.build(catalogue_token_ids(ids, self._tokenizer, checkpoint))
        self._depth = trie.depth
        self._limit: int = model.config.max_position_embeddings
        self._search = TrieBeamSearch(model, trie, k=decoding.list_length, beams=decoding.beams, score=decoding.score)
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
        texts = [self._prompt([self._ids.text(item) for item in history]) for history in histories]
        return encode_prompts(self._tokenizer, texts, room=self._decoding.room(self._depth), limit=self._limit)

    def _prompt(self, history: Sequence[str]) -> str:
        if self._template is not None:
            return self._template.render(history[-self._decoding.history :])
        return self._decoding.prompt(history)

    def predict(self, prompts: Sequence[Sequence[int]], cases: Cases) -> pl.DataFrame:
        """Predictions for ``cases``, in their order, and beside them what they cost: the columns of ``_COSTS``."""
        answers: dict[int, _Answer] = {}
        latency = np.zeros(len(prompts))
        for batch in batches_by_length(prompts, -(-self._decoding.batch_size // self._decoding.chains)):
            began = time.monotonic()
            some = self._answer(
                [prompts[index] for index in batch],
                [int(cases.users[index]) for index in batch],
                [self._decoding.excluded(cases.histories[index]) for index in batch],
            )
            answers.update(zip(batch, some, strict=True))
            latency[batch] = time.monotonic() - began
        ordered = [answers[index] for index in range(len(prompts))]
        return predictions_table(
            cases.users,
            cases.targets,
            np.array([answer.items for answer in ordered]),
            np.array([answer.scores for answer in ordered]),
            [None if answer.chain is None else answer.chain.text for answer in ordered],
            [None if answer.chain is None else not answer.chain.complete for answer in ordered],
        ).with_columns(
            latency=pl.Series(latency),
            prompt_tokens=pl.Series([len(prompt) for prompt in prompts]),
            written_tokens=pl.Series([answer.written for answer in ordered]),
            malformed_chains=pl.Series([answer.malformed for answer in ordered]),
        )

    def _answer(
        self, prompts: Sequence[Sequence[int]], users: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[_Answer]:
        """One batch: the chains of all prompts, then the items after each, without those the user is not to get."""
        if self._writer is None:
            found = self._search.search(prompts, self._ids_of(excluded))
            return [
                _Answer(*self._list(items, scores, own), None, 0, 0)
                for items, scores, own in zip(found.items, found.scores, excluded, strict=True)
            ]
        each = self._decoding.chains
        chains = self._writer.write(prompts, keys=users, per_prompt=each)
        found = self._search.search(
            [[*prompts[index // each], *chain.tokens] for index, chain in enumerate(chains)],
            self._ids_of([items for items in excluded for _ in range(each)]),
        )
        answers = []
        for start in range(0, len(chains), each):
            own, rows = chains[start : start + each], slice(start, start + each)
            items, scores, shown = self._decoding.merge(found.items[rows], found.scores[rows], own)
            answers.append(
                _Answer(
                    *self._list(items, scores, excluded[start // each]),
                    shown,
                    sum(not chain.complete for chain in own),
                    sum(len(chain.tokens) for chain in own),
                )
            )
        return answers

    def _ids_of(self, excluded: Sequence[Collection[int]]) -> list[list[int]] | None:
        """For each user, the ids that no other items than those ``excluded`` have; None where nothing is."""
        return [self._ids.had_only_by(items) for items in excluded] if any(excluded) else None

    def _list(
        self, found: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], excluded: Collection[int]
    ) -> tuple[list[int], list[float]]:
        """Items of the ``found`` ids, best first, as many as there are ids: those that share one stand together."""
        pairs = [
            (item, score)
            for at, score in zip(found.tolist(), scores.tolist(), strict=True)
            for item in self._ids.items[at]
            if item not in excluded
        ][: len(found)]
        return [item for item, _ in pairs], [score for _, score in pairs]


# What a chunk holds beside predictions: wall time of a user's batch, tokens, chains without an answer, and the
# user's share of the time that the chunk took.
_COSTS = ("latency", "prompt_tokens", "written_tokens", "malformed_chains", "seconds")


def predict_in_chunks(recommender: Recommender, cases: Cases, size: int, parts: Path, processes: Processes) -> None:
    """Predict this process's share of the chunks, skipping those that an earlier, killed run left in ``parts``.

    The chunks depend on ``cases`` and ``size`` alone, so that resumed runs and several processes compute the same
    batches as one unbroken run.

    Args:
        recommender: The model.
        cases: Whom to ask.
        size: Users per batch.
        parts: Folder of finished chunks.
        processes: Who shares the work.
    """
    step = size * _BATCHES_PER_CHUNK
    chunks = processes.share(_chunks(cases, size, parts))
    prompts = recommender.prompts(cases.histories)
    sizes = [min(step, len(cases.users) - start) for start, _ in chunks]
    finished = sum(count for count, (_, path) in zip(sizes, chunks, strict=True) if path.exists())
    # A log file gets a line now and then, a terminal a moving bar.
    interval = 0.5 if sys.stderr.isatty() else 15.0
    with tqdm(
        total=sum(sizes),
        initial=finished,
        unit=" users",
        dynamic_ncols=True,
        mininterval=interval,
        desc=f"process 1 of {processes.count}" if processes.count > 1 else None,
        disable=processes.rank > 0,
    ) as progress:
        for start, path in chunks:
            if path.exists():
                continue
            rows = slice(start, start + step)
            began = time.monotonic()
            some = Cases(cases.users[rows], cases.targets[rows], cases.histories[rows])
            table = recommender.predict(prompts[rows], some)
            seconds = (time.monotonic() - began) / len(table)
            with write_atomically(path) as temporary:
                table.with_columns(seconds=pl.lit(seconds)).write_parquet(temporary)
            progress.update(len(table))


def _chunks(cases: Cases, size: int, parts: Path) -> list[tuple[int, Path]]:
    """Number of the first case, and file, of each chunk."""
    step = size * _BATCHES_PER_CHUNK
    return [(start, parts / f"{start:09d}.parquet") for start in range(0, len(cases.users), step)]


def collect_chunks(cases: Cases, size: int, parts: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions of all chunks, and what they cost (`_COSTS`), a row per user each.

    Raises:
        GreamError: A chunk is missing.
    """
    paths = [path for _, path in _chunks(cases, size, parts)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise GreamError(
            f"{missing[0]}: not there, though its process is done; all processes must see the same run folder"
        )
    table = pl.concat([read_table(path) for path in paths])
    return table.drop(_COSTS), table.select(_COSTS)
