"""A history in, a list of items out: the one way in which evaluation, serving and benchmarks ask a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.decoding.chain_text import Chain
from gream.decoding.combine import combine_chains
from gream.engine.checkpoint import catalogue_token_ids, load_tokenizer
from gream.engine.contract import read_contract, settle
from gream.engine.fusion import Candidates, Fusion, top_k
from gream.engine.model import Decoded, Decoder, Model
from gream.engine.prompt import PromptTemplate, encode_prompts, prompt_text
from gream.engine.settings import Combine, Settings
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.trie import PrefixTrie


@dataclass(frozen=True)
class Query:
    """Somebody who is to get a list.

    Attributes:
        key: With the seed, it determines what is drawn; over servers, no two of a run have the same.
        history: Item numbers, oldest first; the whole of it.
        prompt: Token ids of the prompt, which shows the latest of them.
    """

    key: int
    history: Sequence[int]
    prompt: list[int]


@dataclass(frozen=True)
class Answer:
    """What one query gets.

    Attributes:
        items: Best first, as many as were asked for, or what is left of the catalogue; sampled answers may repeat.
        scores: Log-probability of each item's id, given the chain in reasoning mode; with item scores added where they
            are fused.
        chain: The chain that speaks most for the first item; None in direct mode.
        chains: All chains.
        seconds: From handing over the query, with others, until its list was there.
        candidates: What the list was chosen from, where item scores are fused.
    """

    items: list[int]
    scores: list[float]
    chain: Chain | None
    chains: tuple[Chain, ...]
    seconds: float
    candidates: Candidates | None = None


class Engine:
    """A model that recommends items of a catalogue.

    Attributes:
        ids: The ids that the model knows items by.
        settings: How it is asked.
        decoder: The model, asked in that way.
        fusion: Item scores that are added, where the settings name some.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        ids: ItemIds,
        settings: Settings,
        template: PromptTemplate | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        """Prepare the search.

        Args:
            model: Where the model runs.
            tokenizer: Its tokenizer.
            ids: The ids that it knows items by.
            settings: How to ask; window and form are named (`gream.engine.contract.settle`).
            template: Prompt of a model trained elsewhere; None for this project's own.
            fusion: Item scores to be added.

        Raises:
            GreamError: The tokenizer lacks a token of the ids, or the settings are impossible.
        """
        trie = PrefixTrie.build(catalogue_token_ids(ids.ids, tokenizer))
        self.ids = ids
        self.settings = settings
        self.fusion = fusion
        self.decoder: Decoder = model.decoder(tokenizer, ids, trie, settings)
        self._tokenizer = tokenizer
        self._template = template
        self._room, self._limit = settings.room(trie.depth), model.limit

    @staticmethod
    def open(
        model: Model,
        checkpoint: Path,
        index: Path,
        settings: Settings,
        template: Path | None = None,
        only: Collection[int] | None = None,
        fusion: Fusion | None = None,
    ) -> Engine:
        """The engine of a model's folder, its contract obeyed.

        Args:
            model: Where the model runs.
            checkpoint: Its folder in Hugging Face format.
            index: ``index.json`` of the ids that it knows items by.
            settings: How to ask; see `gream.engine.contract.settle`.
            template: Text file with the prompt of a model trained elsewhere.
            only: Items that lists may name, of which the trie then is; None for all.
            fusion: Item scores to be added.

        Raises:
            GreamError: A file cannot be read, the catalogue is another than the model's, or see above.
        """
        settings = settle(settings, checkpoint, own_prompt=template is None)
        ids = ItemIds.load(index)
        if contract := read_contract(checkpoint):
            contract.check_ids(ids.of_items, checkpoint, index)
        prompt = None if template is None else PromptTemplate.load(template)
        if only is not None:
            ids = ids.only(only)
        return Engine(model, load_tokenizer(checkpoint), ids, settings, prompt, fusion)

    def window(self, history: Sequence[int]) -> Sequence[int]:
        """The part of a history that the prompt shows."""
        assert self.settings.history is not None  # noqa: S101 - see the constructor
        return history[-self.settings.history :]

    def queries(self, histories: Sequence[Sequence[int]], keys: Sequence[int] | None = None) -> list[Query]:
        """What is to be answered.

        Args:
            histories: Item numbers, oldest first; none empty.
            keys: See `Query`; by default the numbers 0 to n-1.

        Raises:
            GreamError: A prompt leaves no room for chain and item in the model's context.
        """
        texts = [self._prompt([self.ids.text(item) for item in self.window(history)]) for history in histories]
        prompts = encode_prompts(self._tokenizer, texts, room=self._room, limit=self._limit)
        rows = zip(range(len(prompts)) if keys is None else keys, histories, prompts, strict=True)
        return [Query(int(key), history, prompt) for key, history, prompt in rows]

    def _prompt(self, shown: Sequence[str]) -> str:
        if self._template is not None:
            return self._template.render(shown)
        return prompt_text(shown, self.settings.mode, self.settings.form)

    def answer(self, queries: Sequence[Query], done: Callable[[int], object] = lambda count: None) -> list[Answer]:
        """A list for each query, in order; neither batches nor the order of queries have a say in it.

        Args:
            queries: From `queries`, one or more.
            done: Told how many more queries are done.

        Raises:
            GreamError: All items are excluded, or the model or its servers fail.
        """
        excluded = [self.settings.excluded(query.history) for query in queries]
        scored = None if self.fusion is None else self._scored(self.fusion, queries, excluded)
        decoded = self.decoder.decode(
            [query.prompt for query in queries],
            [query.key for query in queries],
            [self.ids.had_only_by(items) for items in excluded],
            done,
            None if scored is None else [included for _, included, _ in scored],
        )
        if self.fusion is None or scored is None:
            return [self._answer(found, own) for found, own in zip(decoded, excluded, strict=True)]
        return [
            self._fused(self.fusion, found, own, *side)
            for found, own, side in zip(decoded, excluded, scored, strict=True)
        ]

    def _scored(
        self, fusion: Fusion, queries: Sequence[Query], excluded: Sequence[Collection[int]]
    ) -> list[tuple[npt.NDArray[np.floating[Any]], list[int], list[int]]]:
        """For each query its item scores ``[items]``, and the ids and items of the highest, as many as beams."""
        scores = fusion.scores(queries)
        scores[:, self._foreign] = -np.inf
        for row, items in enumerate(excluded):
            scores[row, list(items)] = -np.inf
        best = fusion.first[top_k(scores[:, fusion.first], min(self.settings.list_length, scores.shape[1]))]
        sides = []
        for row, items in zip(scores, best.tolist(), strict=True):
            kept = [item for item in items if row[item] > -np.inf]
            sides.append((row, list(dict.fromkeys(map(self.ids.number, kept))), kept))
        return sides

    def _fused(
        self,
        fusion: Fusion,
        found: Decoded,
        excluded: Collection[int],
        scores: npt.NDArray[np.floating[Any]],
        included: Sequence[int],
        brought: Sequence[int],
    ) -> Answer:
        assert found.included is not None  # noqa: S101 - it was asked for
        ids, own = merged(found, self.settings)
        logs = {number: float(log) for number, log in zip(ids.tolist(), own.tolist(), strict=True) if number >= 0}
        found_ids = frozenset(logs)
        chains = len(found.ids)
        asked = np.logaddexp.reduce(found.included[:, : len(included)].astype(np.float64), axis=0) - np.log(chains)
        logs.update(zip(included, asked.tolist(), strict=True))
        items = [(item, number) for number in logs for item in self.ids.items[number] if item not in excluded]
        places = {item: place for place, item in enumerate(brought)}
        candidates = Candidates(
            items=np.array([item for item, _ in items], dtype=np.int64),
            logs=np.array([logs[number] for _, number in items], dtype=np.float64),
            scores=scores[[item for item, _ in items]].astype(np.float64),
            found=np.array([number in found_ids for _, number in items], dtype=bool),
            place=np.array([places.get(item, -1) for item, _ in items], dtype=np.int64),
        )
        best = candidates.best(fusion.weight, self.settings.k)
        return Answer(
            candidates.items[best].tolist(),
            candidates.fused(fusion.weight)[best].tolist(),
            self._spoken_for(found, self.ids.number(int(candidates.items[best[0]]))),
            found.chains,
            found.seconds,
            candidates,
        )

    def _answer(self, found: Decoded, excluded: Collection[int]) -> Answer:
        ids, scores = merged(found, self.settings)
        # Items that share an id stand together, and each takes a place.
        pairs = [
            (item, score)
            for number, score in zip(ids.tolist(), scores.tolist(), strict=True)
            if number >= 0
            for item in self.ids.items[number]
            if item not in excluded
        ][: len(found.chains) if self.settings.combine == Combine.answers else self.settings.k]
        items, their_scores = [item for item, _ in pairs], [score for _, score in pairs]
        return Answer(items, their_scores, self._spoken_for(found, ids[0]), found.chains, found.seconds)

    @cached_property
    def _foreign(self) -> npt.NDArray[np.bool_]:
        """Items of the catalogue that lists may not name, ``[items]``."""
        foreign = np.ones(len(self.ids), dtype=bool)
        foreign[[item for items in self.ids.items for item in items]] = False
        return foreign

    @staticmethod
    def _spoken_for(found: Decoded, number: int) -> Chain | None:
        """The chain after which an id is likeliest; None where there are none."""
        if not found.chains:
            return None
        said = np.where(found.ids == number, found.scores, -np.inf).max(axis=1)
        return found.chains[int(said.argmax())]


def merged(found: Decoded, settings: Settings) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """One list out of those after each chain: ids and scores, best first."""
    if settings.combine == Combine.answers:
        total = np.array([chain.score for chain in found.chains]) + found.scores[:, 0]
        order = np.argsort(-total, kind="stable")
        return found.ids[order, 0], total[order].astype(np.float32)
    if len(found.chains) > 1:
        return combine_chains(found.ids, found.scores, min(settings.k, found.ids.shape[1]))
    return found.ids[0], found.scores[0]
