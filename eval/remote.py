"""Evaluation over inference servers: every request is kept as it is answered, and the result does not depend on order.

A user's work is one or more chains, and for each an item search; they wait for no other user's. What is answered goes
into a journal at once, so that a killed evaluation repeats no answered chain and no finished list. When all is there,
the table is made from the journal in the order of the users.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from gream.decoding.chain_text import Chain, ChainText
from gream.decoding.server_beam import ServerBeamSearch
from gream.decoding.server_client import ServerClient, ServerSettings
from gream.decoding.server_protocol import PROTOCOLS, Draw, Engine, Logs
from gream.journal import Journal
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie
from gream.stage import StageResult
from tqdm import tqdm

from .asking import Asking, encode_prompts
from .checkpoint import catalogue_token_ids
from .protocol import Cases, Split, held_out, read_interactions, training_matrix
from .results import predictions_table, write_result
from .stages import check_name, label_of, model_inputs, model_result, run_model_stage


@dataclass(frozen=True, kw_only=True)
class RemoteDecoding(Asking):
    """How a model on servers is asked.

    Attributes:
        engine: What runs on the servers.
    """

    engine: Engine


class RemoteRecommender:
    """A model on servers, its tokenizer here, and the catalogue's trie."""

    def __init__(self, checkpoint: Path, catalog: Catalog, decoding: RemoteDecoding) -> None:
        """Load the tokenizer; the weights stay where they are.

        Raises:
            GreamError: The tokenizer lacks a token of the catalogue, or the beams are too few.
        """
        from transformers import AutoConfig, AutoTokenizer

        self._catalog = catalog
        self._decoding = decoding
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self._limit: int = AutoConfig.from_pretrained(checkpoint, local_files_only=True).max_position_embeddings
        trie = PrefixTrie.build(catalogue_token_ids(catalog, self._tokenizer, checkpoint))
        self._search = ServerBeamSearch(trie, k=decoding.list_length, beams=decoding.beams, score=decoding.score)
        self._protocol = PROTOCOLS[decoding.engine]()
        self._text = ChainText(self._tokenizer)

    def prompts(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of the prompt of each history.

        Raises:
            GreamError: A prompt leaves no room for chain and item in the model's context.
        """
        texts = [self._decoding.prompt([self._catalog.text(item) for item in history]) for history in histories]
        room = self._decoding.room(self._search.trie.depth)
        return encode_prompts(self._tokenizer, texts, room=room, limit=self._limit)

    async def answer(self, session: _Session, user: int, history: Sequence[int], prompt: Sequence[int]) -> None:
        """Everything about one user that the journal does not hold yet; it holds it afterwards."""
        excluded = self._decoding.excluded(history)
        if self._decoding.chain_tokens is None:
            await self._list(session, f"{user}", prompt, excluded)
        else:
            numbers = range(self._decoding.chains)
            await asyncio.gather(*(self._reasoned(session, user, number, prompt, excluded) for number in numbers))

    async def _reasoned(
        self, session: _Session, user: int, number: int, prompt: Sequence[int], excluded: Collection[int]
    ) -> None:
        async def write() -> dict[str, Any]:
            budget = self._decoding.chain_tokens
            assert budget is not None  # noqa: S101 - reasoning mode
            # Of seed, user and chain alone; 31 bits, which every server takes.
            sequence = np.random.SeedSequence([self._decoding.seed, user, number])
            draw = Draw(self._decoding.temperature, int(sequence.generate_state(1)[0]) >> 1)
            scored = self._decoding.mode == "sampled"
            written = await self._protocol.write(session.client, prompt, budget, self._text.end, draw, scored=scored)
            chain = self._text.read(written.tokens[:budget], written.logs)
            row = {"tokens": chain.tokens, "text": chain.text, "complete": chain.complete}
            return row | {"score": chain.score} if scored else row

        chain = await session.once(_chain_key(user, number), write)
        await self._list(session, _list_key(user, number), [*prompt, *chain["tokens"]], excluded)

    async def _list(self, session: _Session, key: str, prefix: Sequence[int], excluded: Collection[int]) -> None:
        async def next_logs(prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> list[Logs]:
            return await self._protocol.next_logs(session.client, prefixes, tokens)

        async def search() -> dict[str, Any]:
            items, scores = await self._search.search(prefix, next_logs, excluded)
            return {"items": items.tolist(), "scores": scores.tolist()}

        await session.once(key, search)

    def tables(
        self, journal: Journal, cases: Cases, prompts: Sequence[Sequence[int]]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Predictions and costs in a complete journal, in the order of ``cases``; see `eval.stages.model_result`."""
        users = [self._user(journal.rows, int(user)) for user in cases.users]
        shown = [user.shown for user in users]
        predictions = predictions_table(
            cases.users,
            cases.targets,
            np.array([user.items for user in users], dtype=np.int64),
            np.array([user.scores for user in users], dtype=np.float32),
            [None if chain is None else chain.text for chain in shown],
            [None if chain is None else not chain.complete for chain in shown],
        )
        costs = pl.DataFrame(
            {
                "latency": [user.latency for user in users],
                "prompt_tokens": [len(prompt) for prompt in prompts],
                "written_tokens": [sum(len(chain.tokens) for chain in user.chains) for user in users],
                "malformed_chains": [sum(not chain.complete for chain in user.chains) for user in users],
            }
        )
        return predictions, costs

    def _user(self, rows: dict[str, dict[str, Any]], user: int) -> _User:
        if self._decoding.chain_tokens is None:
            row = rows[f"{user}"]
            return _User(row["items"], row["scores"], None, [], row["took"])
        numbers = range(self._decoding.chains)
        written = [rows[_chain_key(user, number)] for number in numbers]
        lists = [rows[_list_key(user, number)] for number in numbers]
        chains = [
            Chain(tuple(row["tokens"]), row["text"], row["complete"], row.get("score", math.nan)) for row in written
        ]
        items, scores, shown = self._decoding.merge(
            np.array([row["items"] for row in lists], dtype=np.int64),
            np.array([row["scores"] for row in lists], dtype=np.float32),
            chains,
        )
        # The chains of a user are written side by side.
        latency = max(chain["took"] + found["took"] for chain, found in zip(written, lists, strict=True))
        return _User(items, scores, shown, chains, latency)


def _chain_key(user: int, number: int) -> str:
    return f"{user} chain {number}"


def _list_key(user: int, number: int) -> str:
    return f"{user} after {number}"


@dataclass(frozen=True)
class _User:
    """What one user gets: items and scores ``[k]``, the chain that is shown, all chains, and seconds."""

    items: Any
    scores: Any
    shown: Chain | None
    chains: Sequence[Chain]
    latency: float


class _Session:
    """The servers and the journal of one start.

    Attributes:
        client: The servers.
    """

    def __init__(self, client: ServerClient, journal: Journal) -> None:
        self.client = client
        self._journal = journal
        # Time goes on where the last start left off, so that the time in between does not count.
        self._since = time.monotonic() - seconds_of(journal)

    async def once(self, key: str, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The journal's row for ``key``: what an earlier start left, else what ``ask`` answers, with its seconds."""
        if key not in self._journal.rows:
            began = time.monotonic()
            row = await ask()
            now = time.monotonic()
            seconds = {"took": round(now - began, 4), "at": round(now - self._since, 3)}
            self._journal.add(key, row | seconds)
        return self._journal.rows[key]


def seconds_of(journal: Journal) -> float:
    """Wall time of asking, over all starts, until the last answer in ``journal``."""
    return max((row["at"] for row in journal.rows.values()), default=0.0)


async def ask_all(
    recommender: RemoteRecommender,
    cases: Cases,
    prompts: Sequence[Sequence[int]],
    journal: Journal,
    servers: ServerSettings,
) -> ServerClient:
    """Ask for whatever ``journal`` lacks, as many users at a time as requests may be in flight.

    Returns:
        The client, closed; it counted requests and retries.

    Raises:
        GreamError: A server refuses a request, or none answers; what was answered is in the journal.
    """
    waiting = zip(cases.users.tolist(), cases.histories, prompts, strict=True)
    interval = 0.5 if sys.stderr.isatty() else 15.0
    async with ServerClient(servers) as client:
        session = _Session(client, journal)
        with tqdm(total=len(prompts), unit=" users", dynamic_ncols=True, mininterval=interval) as progress:

            async def work() -> None:
                for user, history, prompt in waiting:  # one iterator for all: each takes the next as soon as it is free
                    await recommender.answer(session, user, history, prompt)
                    progress.update()

            workers = [asyncio.create_task(work()) for _ in range(min(servers.in_flight, len(prompts)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return client


def evaluate_remote(
    run: Path,
    checkpoint: Path,
    name: str,
    decoding: RemoteDecoding,
    servers: ServerSettings,
    split: Split,
    users: int | None,
    command: str,
    *,
    overwrite: bool,
    keep: bool = False,
) -> StageResult:
    """Make ``eval/NAME`` for a model that runs on servers.

    Args:
        run: Run folder.
        checkpoint: The folder that the servers run, for its tokenizer; its files identify the evaluation.
        name: Of the evaluation.
        decoding: How the model is asked.
        servers: Where; changes nothing in the result.
        split: Whose item is to be predicted.
        users: Size of a random sample; None for all.
        command: Recorded.
        overwrite: Replace an evaluation made with another configuration or by other code.
        keep: Accept one that other code made.

    Raises:
        GreamError: An input is missing or broken, or the servers fail.
    """
    check_name(name)
    interactions, index = run / "interactions.parquet", run / "index.json"
    label = label_of(checkpoint, run)

    def build(out: Path) -> None:
        catalog = Catalog.load(index)
        table = read_interactions(interactions)
        cases = held_out(table, split).sample(users, decoding.seed)
        decoding.check_exclusion(cases.histories, len(catalog))
        recommender = RemoteRecommender(checkpoint, catalog, decoding)
        prompts = recommender.prompts(cases.histories)
        with Journal(out / "answers.jsonl") as journal:
            client = asyncio.run(ask_all(recommender, cases, prompts, journal, servers))
            seconds = seconds_of(journal)
            predictions, costs = recommender.tables(journal, cases, prompts)
        if client.retries:
            causes = ", ".join(f"{count} after {cause}" for cause, count in sorted(client.retries.items()))
            print(f"[eval-{name}] tried again: {causes}", flush=True)
        result = model_result(
            name,
            decoding,
            predictions,
            costs,
            cases,
            training_matrix(table, len(catalog)),
            catalogue=len(catalog),
            split=split,
            checkpoint=label,
            seconds_per_user=seconds / len(predictions),
            settings={},
            packages=("transformers", "aiohttp"),
            command=command,
        )
        write_result(out, result, predictions)

    inputs = model_inputs(interactions, index, checkpoint)
    return run_model_stage(run, name, decoding, split, users, label, inputs, build, overwrite=overwrite, keep=keep)
