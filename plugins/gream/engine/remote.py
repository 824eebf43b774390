"""A model on inference servers: every request is kept as it is answered, in whatever order answers come.

A prompt's work is one or more chains, and for each a search; it waits for no other prompt's. Where there is a journal,
what is answered goes into it at once, so that a start after a kill repeats no answered chain and no finished list.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gream.decoding.chain_text import Chain, ChainText
from gream.decoding.choices import ServerEngine
from gream.decoding.native_beam import FEWEST_BEAMS, NativeBeamSearch
from gream.decoding.server_beam import ServerBeamSearch
from gream.decoding.server_client import RefusedError, ServerClient, ServerSettings
from gream.decoding.server_protocol import PROTOCOLS, Draw, Logs
from gream.engine.checkpoint import positions
from gream.engine.contract import ids_digest
from gream.engine.model import Decoded
from gream.engine.settings import Combine, Settings
from gream.errors import GreamError
from gream.journal import Journal
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie

# SGLang takes prompts of up to so many tokens less than the model has positions.
SGLANG_RESERVE = 6
# A run that so many prompts are refused in does not go on: what is wrong with them is wrong with all.
MOST_REFUSED = 20


class ServedModel:
    """A model on SGLang or vLLM servers; its folder is read here for the tokenizer and the length of its context.

    Attributes:
        limit: Tokens that it can hold.
    """

    def __init__(
        self,
        checkpoint: Path,
        engine: ServerEngine,
        servers: ServerSettings,
        journal: Path | None = None,
        *,
        native: bool = True,
    ) -> None:
        """Take the servers.

        Args:
            checkpoint: The folder that they run.
            engine: What runs there.
            servers: Where.
            journal: File of what was answered; an earlier start's is gone on with. None keeps nothing.
            native: Whether the servers' own beam search is used where they hold the catalogue.
        """
        self.limit = positions(checkpoint) - (SGLANG_RESERVE if engine == ServerEngine.sglang else 0)
        self._engine, self._servers, self._journal, self._native = engine, servers, journal, native

    def decoder(self, tokenizer: Any, ids: ItemIds, trie: PrefixTrie, settings: Settings) -> ServedDecoder:
        """See `gream.engine.model.Model`."""
        return ServedDecoder(
            self._engine, self._servers, self._journal, tokenizer, ids, trie, settings, native=self._native
        )


class ServedDecoder:
    """See `gream.engine.model.Decoder`; keys are distinct where they name prompts in a journal.

    Attributes:
        seconds: Wall time of asking, over all starts.
        requests: Answered requests of this start.
        native: Whether the servers' own beam search makes the lists; known once something was asked.
        retries: Further tries of this start, by cause.
    """

    def __init__(
        self,
        engine: ServerEngine,
        servers: ServerSettings,
        journal: Path | None,
        tokenizer: Any,
        ids: ItemIds,
        trie: PrefixTrie,
        settings: Settings,
        *,
        native: bool,
    ) -> None:
        self.seconds = 0.0
        self.requests = 0
        self.native = native and settings.beams >= FEWEST_BEAMS
        self.retries: Counter[str] = Counter()
        self._met = False
        self._servers, self._journal, self._settings = servers, journal, settings
        self._protocol = PROTOCOLS[engine]()
        self._search = ServerBeamSearch(trie, k=settings.list_length, beams=settings.beams, score=settings.score)
        self._native_search = NativeBeamSearch(
            ids, ids_digest(ids.of_items), k=self._search.k, beams=settings.beams, score=settings.score
        )
        self._text = None if settings.chain_tokens is None else ChainText(tokenizer)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        excluded: Sequence[Collection[int]],
        done: Callable[[int], object],
        included: Sequence[Sequence[int]] | None = None,
    ) -> list[Decoded]:
        """See `gream.engine.model.Decoder`; as many prompts at a time as requests may be in flight."""
        if included is not None:
            raise GreamError("item scores are fused in process only: ask the model here, not on servers")
        # Without a journal nothing outlives this call, and prompts go by their places: two of them may have one key.
        names = range(len(prompts)) if self._journal is None else keys
        work = [_Work(*row) for row in zip(names, prompts, keys, excluded, strict=True)]
        with nullcontext(_Memory()) if self._journal is None else Journal(self._journal) as journal:
            asyncio.run(self._ask_all(journal, work, done))
            self.seconds = _seconds_of(journal)
            return [self._decoded(journal.rows, name) for name in names]

    async def _ask_all(
        self,
        journal: Journal | _Memory,
        work: Sequence[_Work],
        done: Callable[[int], object],
    ) -> None:
        waiting = iter(work)
        refused: list[str] = []
        async with ServerClient(self._servers) as client:
            if not self._met:
                await self._meet(client)
                self._met = True
            session = _Session(client, journal)

            async def ask() -> None:
                for one in waiting:  # one iterator for all: each takes the next as soon as it is free
                    try:
                        await self._ask(session, one)
                    except RefusedError as error:
                        refused.append(f"{one.name}: {error}")
                        if len(refused) == MOST_REFUSED:
                            break
                    done(1)

            workers = [asyncio.create_task(ask()) for _ in range(min(self._servers.in_flight, len(work)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
            self.requests += client.requests
            self.retries += client.retries
        if refused:
            kept = "" if self._journal is None else "; what else was answered is kept"
            raise GreamError(f"{len(refused)} of {len(work)} prompts were refused, first that of {refused[0]}{kept}")

    async def _meet(self, client: ServerClient) -> None:
        """Ask the servers what they can do, and say what follows from it."""
        can = await self._protocol.abilities(client)
        if self.native:
            self.native = self._native_search.catalogue in can.catalogues
            how = "by their own beam search" if self.native else "by a beam search here: they do not hold its trie"
            print(f"lists: over servers, {how}", file=sys.stderr, flush=True)
        if self._settings.temperature and not can.seeded:
            print(
                "warning: what these servers draw depends on what else they are asked; chains can be drawn again where "
                "all are started with --enable-deterministic-inference",
                file=sys.stderr,
                flush=True,
            )

    async def _ask(self, session: _Session, one: _Work) -> None:
        """Everything about one prompt that the journal does not hold yet; it holds it afterwards."""
        if self._text is None:
            await self._list(session, f"{one.name}", one.prompt, one.excluded)
        else:
            numbers = range(self._settings.chains)
            # To the end, also where one fails: what is answered is kept.
            ended = await asyncio.gather(
                *(self._reasoned(session, self._text, one, number) for number in numbers), return_exceptions=True
            )
            for problem in filter(None, ended):
                raise problem

    async def _reasoned(self, session: _Session, text: ChainText, one: _Work, number: int) -> None:
        async def write() -> dict[str, Any]:
            settings = self._settings
            budget = settings.chain_tokens
            assert budget is not None  # noqa: S101 - as there is a text
            # Of seed, key and chain alone; 31 bits, which every server takes.
            sequence = np.random.SeedSequence([settings.seed, one.key, number])
            draw = Draw(settings.temperature, int(sequence.generate_state(1)[0]) >> 1)
            scored = settings.combine == Combine.answers
            written = await self._protocol.write(session.client, one.prompt, budget, text.end, draw, scored=scored)
            chain = text.read(written.tokens[:budget], written.logs)
            row = {"tokens": chain.tokens, "text": chain.text, "complete": chain.complete}
            return row | {"score": chain.score} if scored else row

        chain = await session.once(_chain_key(one.name, number), write)
        await self._list(session, _list_key(one.name, number), [*one.prompt, *chain["tokens"]], one.excluded)

    async def _list(self, session: _Session, key: str, prefix: Sequence[int], excluded: Collection[int]) -> None:
        async def next_logs(prefixes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> list[Logs]:
            return await self._protocol.next_logs(session.client, prefixes, tokens)

        async def search() -> dict[str, Any]:
            if self.native:
                items, scores = await self._native_search.search(session.client, prefix, excluded)
            else:
                items, scores = await self._search.search(prefix, next_logs, excluded)
            return {"items": items.tolist(), "scores": scores.tolist()}

        await session.once(key, search)

    def _decoded(self, rows: dict[str, dict[str, Any]], name: int) -> Decoded:
        """What a complete journal holds about one prompt."""
        numbers = range(0 if self._text is None else self._settings.chains)
        written = [rows[_chain_key(name, number)] for number in numbers]
        lists = [rows[_list_key(name, number)] for number in numbers] or [rows[f"{name}"]]
        ids = np.full((len(lists), max(len(row["items"]) for row in lists)), -1, dtype=np.int64)
        scores = np.full(ids.shape, -np.inf, dtype=np.float32)
        for at, row in enumerate(lists):
            ids[at, : len(row["items"])], scores[at, : len(row["items"])] = row["items"], row["scores"]
        chains = tuple(
            Chain(tuple(row["tokens"]), row["text"], row["complete"], row.get("score", math.nan)) for row in written
        )
        # The chains of a prompt are written side by side.
        taken = [row["took"] for row in lists]
        if written:
            taken = [chain["took"] + found for chain, found in zip(written, taken, strict=True)]
        return Decoded(chains, ids, scores, max(taken))


def _chain_key(name: int, number: int) -> str:
    return f"{name} chain {number}"


def _list_key(name: int, number: int) -> str:
    return f"{name} after {number}"


@dataclass(frozen=True)
class _Work:
    """A prompt to be answered.

    Attributes:
        name: Its own among all that are answered together; where there is a journal, over all starts.
        prompt: Token ids.
        key: With the seed, it determines what is drawn.
        excluded: See `gream.engine.model.Decoder`.
    """

    name: int
    prompt: Sequence[int]
    key: int
    excluded: Collection[int]


class _Memory:
    """What a journal holds, for as long as one call lasts."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, key: str, row: dict[str, Any]) -> None:
        """See `Journal.add`."""
        self.rows[key] = row


class _Session:
    """The servers and the journal of one start.

    Attributes:
        client: The servers.
    """

    def __init__(self, client: ServerClient, journal: Journal | _Memory) -> None:
        self.client = client
        self._journal = journal
        # Time goes on where the last start left off, so that the time in between does not count.
        self._since = time.monotonic() - _seconds_of(journal)

    async def once(self, key: str, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The journal's row for ``key``: what an earlier start left, else what ``ask`` answers, with its seconds."""
        if key not in self._journal.rows:
            began = time.monotonic()
            row = await ask()
            now = time.monotonic()
            seconds = {"took": round(now - began, 4), "at": round(now - self._since, 3)}
            self._journal.add(key, row | seconds)
        return self._journal.rows[key]


def _seconds_of(journal: Journal | _Memory) -> float:
    """Wall time of asking, over all starts, until the last answer in ``journal``."""
    return max((row["at"] for row in journal.rows.values()), default=0.0)
