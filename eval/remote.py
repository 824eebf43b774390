"""Evaluation over inference servers: every request is kept as it is answered, and the result does not depend on order.

A user's work is one or more chains, and for each an item search; they wait for no other user's. What is answered goes
into a journal at once, so that a killed evaluation repeats no answered chain and no finished list. When all is there,
the table is made from the journal in the order of the users.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from gream.decoding.beam import Score
from gream.decoding.chain_text import Chain, ChainText
from gream.decoding.combine import combine_chains
from gream.decoding.server_beam import ServerBeamSearch
from gream.decoding.server_client import ServerClient, ServerSettings
from gream.decoding.server_protocol import PROTOCOLS, Draw, Engine, Logs
from gream.dialogue import direct_prompt, reasoning_prompt, render_prompt
from gream.errors import GreamError
from gream.journal import Journal
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie
from gream.stage import StageResult, run_stage
from tqdm import tqdm

from eval.checkpoint import catalogue_token_ids, checkpoint_files, encode_prompts
from eval.metrics import exposure_of, measure
from eval.protocol import Cases, Split, held_out, read_interactions, training_matrix
from eval.results import K, Mode, Result, outputs_of, predictions_table, versions_of, write_result
from eval.stages import check_name, label_of


@dataclass(frozen=True)
class RemoteDecoding:
    """How a model on servers is asked; with the model, all that determines the lists.

    Attributes:
        engine: What runs on the servers.
        beams: Hypotheses per step of the item search.
        score: What an item's score is, see `gream.decoding.beam.TrieBeamSearch`.
        history: Most recent items in the prompt.
        chains: Per user; 0 asks for the item directly.
        chain_tokens: Most tokens of a chain; None in direct mode.
        temperature: Of the chains; 0 is greedy.
        seed: Of sampled chains.
    """

    engine: Engine
    beams: int
    score: Score
    history: int
    chains: int
    chain_tokens: int | None
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        if self.history < 1:
            raise GreamError(f"--history {self.history}: 1 or more needed")
        if self.chains > 1 and not self.temperature:
            raise GreamError(f"--chains {self.chains}: greedy chains are all the same; give a --temperature above 0")


class RemoteRecommender:
    """A model on servers, its tokenizer here, and the catalogue's trie."""

    def __init__(self, checkpoint: Path, catalog: Catalog, decoding: RemoteDecoding) -> None:
        """Load the tokenizer; the weights stay where they are.

        Raises:
            GreamError: The tokenizer lacks a token of the catalogue, or a setting is impossible.
        """
        from transformers import AutoConfig, AutoTokenizer

        self._catalog = catalog
        self._decoding = decoding
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self._limit: int = AutoConfig.from_pretrained(checkpoint, local_files_only=True).max_position_embeddings
        trie = PrefixTrie.build(catalogue_token_ids(catalog, self._tokenizer, checkpoint))
        # Chains are combined by what their lists share: longer lists than the final one make that exact sooner.
        width = K if decoding.chains < 2 else decoding.beams
        self._search = ServerBeamSearch(trie, k=width, beams=decoding.beams, score=decoding.score)
        self._protocol = PROTOCOLS[decoding.engine]()
        self._text = ChainText(self._tokenizer)

    def prompts(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of the prompt of each history.

        Raises:
            GreamError: A prompt leaves no room for chain and item in the model's context.
        """
        ask = direct_prompt if self._decoding.chain_tokens is None else reasoning_prompt
        texts = [
            render_prompt(ask([self._catalog.text(item) for item in history[-self._decoding.history :]]))
            for history in histories
        ]
        room = self._search.trie.depth
        if self._decoding.chain_tokens is not None:
            room += self._decoding.chain_tokens + len(self._text.open)
        return encode_prompts(self._tokenizer, texts, room=room, limit=self._limit)

    async def answer(self, session: _Session, user: int, prompt: Sequence[int]) -> None:
        """Everything about one user that the journal does not hold yet; it holds it afterwards."""
        if self._decoding.chain_tokens is None:
            await self._list(session, f"{user}", prompt)
        else:
            numbers = range(self._decoding.chains)
            await asyncio.gather(*(self._reasoned(session, user, number, prompt) for number in numbers))

    async def _reasoned(self, session: _Session, user: int, number: int, prompt: Sequence[int]) -> None:
        key = f"{user} chain {number}"
        if key not in session.rows:
            assert self._decoding.chain_tokens is not None  # noqa: S101 - reasoning mode
            # Of seed, user and chain alone; 31 bits, which every server takes.
            sequence = np.random.SeedSequence([self._decoding.seed, user, number])
            draw = Draw(self._decoding.temperature, int(sequence.generate_state(1)[0]) >> 1)
            budget = self._decoding.chain_tokens
            tokens = await self._protocol.write(session.client, prompt, budget, self._text.end, draw)
            chain = self._text.read(tokens[:budget])
            session.keep(key, {"tokens": chain.tokens, "text": chain.text, "complete": chain.complete})
        await self._list(session, f"{user} after {number}", [*prompt, *session.rows[key]["tokens"]])

    async def _list(self, session: _Session, key: str, prefix: Sequence[int]) -> None:
        if key in session.rows:
            return

        async def next_logs(prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> list[Logs]:
            return await self._protocol.next_logs(session.client, prefixes, tokens)

        items, scores = await self._search.search(prefix, next_logs)
        session.keep(key, {"items": items.tolist(), "scores": scores.tolist()})

    def table(self, journal: Journal, cases: Cases) -> pl.DataFrame:
        """The predictions in a complete journal, in the order of ``cases``."""
        rows = [self._row(journal, int(user)) for user in cases.users]
        items = np.array([row[0] for row in rows], dtype=np.int64)
        scores = np.array([row[1] for row in rows], dtype=np.float32)
        chains = [row[2] for row in rows]
        return predictions_table(
            cases.users,
            cases.targets,
            items,
            scores,
            [None if chain is None else chain.text for chain in chains],
            [None if chain is None else not chain.complete for chain in chains],
        )

    def _row(self, journal: Journal, user: int) -> tuple[Any, Any, Chain | None]:
        if self._decoding.chain_tokens is None:
            row = journal.rows[f"{user}"]
            return row["items"], row["scores"], None
        numbers = range(self._decoding.chains)
        lists = [journal.rows[f"{user} after {number}"] for number in numbers]
        chains = [journal.rows[f"{user} chain {number}"] for number in numbers]
        best = 0
        items, scores = lists[0]["items"], lists[0]["scores"]
        if len(lists) > 1:
            found = np.array([row["items"] for row in lists], dtype=np.int64)
            each = np.array([row["scores"] for row in lists], dtype=np.float32)
            items, scores = combine_chains(found, each, min(K, len(self._catalog)))
            # Of several chains the one that is shown is the one that speaks most for the first item.
            best = int(np.where(found == items[0], each, -np.inf).max(axis=1).argmax())
        shown = chains[best]
        return items, scores, Chain(tuple(shown["tokens"]), shown["text"], shown["complete"])


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

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """What has been answered."""
        return self._journal.rows

    def keep(self, key: str, row: dict[str, Any]) -> None:
        """Add an answer to the journal."""
        self._journal.add(key, row | {"at": round(time.monotonic() - self._since, 3)})


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
    waiting = zip(cases.users.tolist(), prompts, strict=True)
    interval = 0.5 if sys.stderr.isatty() else 15.0
    async with ServerClient(servers) as client:
        session = _Session(client, journal)
        with tqdm(total=len(prompts), unit=" users", dynamic_ncols=True, mininterval=interval) as progress:

            async def work() -> None:
                for user, prompt in waiting:  # one iterator for all: each takes the next as soon as it is free
                    await recommender.answer(session, user, prompt)
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
        overwrite: Replace an evaluation made with another configuration.

    Raises:
        GreamError: An input is missing or broken, or the servers fail.
    """
    check_name(name)
    interactions, index = run / "interactions.parquet", run / "index.json"
    mode: Mode = "direct" if decoding.chain_tokens is None else "reasoning"
    label = label_of(checkpoint, run)

    def build(out: Path) -> None:
        catalog = Catalog.load(index)
        table = read_interactions(interactions)
        cases = held_out(table, split)
        if users is not None:
            cases = cases.sample(users, decoding.seed)
        recommender = RemoteRecommender(checkpoint, catalog, decoding)
        prompts = recommender.prompts(cases.histories)
        with Journal(out / "answers.jsonl") as journal:
            client = asyncio.run(ask_all(recommender, cases, prompts, journal, servers))
            seconds = seconds_of(journal)
            predictions = recommender.table(journal, cases)
        if client.retries:
            causes = ", ".join(f"{count} after {cause}" for cause, count in sorted(client.retries.items()))
            print(f"[eval-{name}] tried again: {causes}", flush=True)
        items = np.array(predictions["items"].to_list(), dtype=np.int64)
        malformed = predictions["malformed"].mean()
        result = Result(
            name=name,
            mode=mode,
            split=split,
            checkpoint=label,
            **measure(items, cases.targets, catalogue=len(catalog), seed=decoding.seed),
            malformed_rate=None if malformed is None else float(malformed),  # type: ignore[arg-type]
            seconds_per_user=seconds / len(items),
            exposure=exposure_of(items, training_matrix(table, len(catalog)), cases.histories, len(catalog)),
            seed=decoding.seed,
            settings={key: value for key, value in dataclasses.asdict(decoding).items() if key != "seed"},
            versions=versions_of("numpy", "polars", "transformers", "aiohttp"),
            command=command,
        )
        write_result(out, result, predictions)

    return run_stage(
        run,
        f"eval-{name}",
        config={"mode": mode, "k": K, "split": split, "users": users, "checkpoint": label}
        | dataclasses.asdict(decoding),
        inputs=[interactions, index, *checkpoint_files(checkpoint)],
        outputs=outputs_of(name),
        build=build,
        overwrite=overwrite,
        keep_partial=True,
    )
