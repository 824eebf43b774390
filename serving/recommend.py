"""Recommendations for a history that somebody names: in both modes, with one model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gream.config import Config
from gream.dialogue import ANSWER_CLOSE, Form, parse_reasoned_answer
from gream.errors import GreamError
from gream.files import Row, iterate_jsonl
from gream.semantic_ids.trie import PrefixTrie

from eval.asking import chain_room, encode_prompts, prompt_text
from eval.checkpoint import (
    Device,
    catalogue_token_ids,
    checkpoint_files,
    load_checkpoint,
    resolve_device,
)

from .items import Item, Items

Mode = Literal["direct", "reasoning"]
MODES: tuple[Mode, ...] = get_args(Mode)

# Entries of a history that are looked up at all; what exceeds the prompt's window is left out of it anyway.
LONGEST_HISTORY = 500


class ItemOut(Config):
    """An item as it is shown.

    Attributes:
        item_id: Its id in the data.
        title: May be empty.
        category: Most specific category; may be empty.
        semantic_id: Its tokens, one per level.
    """

    item_id: str
    title: str
    category: str
    semantic_id: tuple[str, ...]


class RankedItem(ItemOut):
    """A recommended item.

    Attributes:
        rank: From 1.
        score: Log-probability of the item's id, given the chain in reasoning mode.
    """

    rank: int
    score: float


class Reasoning(Config):
    """What the model wrote before the item.

    Attributes:
        text: As written, up to ``<answer>``.
        complete: False where ``<answer>`` had to be appended.
        evidence: This stage of the chain; this and the following are None where the chain does not follow the
            grammar.
        preference: Likewise.
        intent: Likewise.
        recommendation: Likewise.
        kept: Items of the denoised history, as far as they exist.
    """

    text: str
    complete: bool
    evidence: str | None
    preference: str | None
    intent: str | None
    recommendation: str | None
    kept: tuple[ItemOut, ...]


class Recommendation(Config):
    """A ranked list for one history.

    Attributes:
        mode: "direct" or "reasoning".
        history: As it was understood, oldest first: the items that stand in the prompt.
        left_out: Earlier items that did not fit the prompt's window.
        reasoning: None in direct mode.
        items: Best first.
    """

    mode: Mode
    history: tuple[ItemOut, ...]
    left_out: int
    reasoning: Reasoning | None
    items: tuple[RankedItem, ...]


@dataclass(frozen=True)
class Settings:
    """How the model is asked.

    Attributes:
        beams: Hypotheses per step, and the most items of a list.
        history: Most recent items in the prompt.
        chain_tokens: Most tokens of a chain.
        batch_size: Histories decoded together.
        device: "cpu", "cuda", or "auto" for the latter where there is one.
        form: Of the direct prompt, as the model was trained on it.
        exclude_history: Whether lists leave out all items of the history.
    """

    beams: int = 20
    history: int = 20
    chain_tokens: int = 512
    batch_size: int = 16
    device: Device = "cpu"
    form: Form = "question"
    exclude_history: bool = False


class LocalModel:
    """A checkpoint in this process, loaded once for both modes. Not for two threads at a time.

    Attributes:
        items: The run's items.
        settings: How the model is asked.
        longest_list: Most items that can be asked for.
    """

    def __init__(self, checkpoint: Path, items: Items, settings: Settings) -> None:
        """Load model and tokenizer.

        Raises:
            GreamError: The folder is no checkpoint, its tokenizer lacks a token of the catalogue, or a setting is
                impossible.
        """
        # Here, so that what is wrong with the arguments is said before seconds of imports.
        from gream.decoding.beam import TrieBeamSearch
        from gream.decoding.chain import ChainWriter

        checkpoint_files(checkpoint)
        device = resolve_device(settings.device)
        self.items = items
        self.settings = settings
        model, self._tokenizer = load_checkpoint(checkpoint, device)
        self._limit: int = model.config.max_position_embeddings
        trie = PrefixTrie.build(catalogue_token_ids(items.catalog, self._tokenizer, checkpoint))
        self._depth = trie.depth
        self.longest_list = min(settings.beams, len(items))
        self._search = TrieBeamSearch(model, trie, k=self.longest_list, beams=settings.beams)
        self._writer = ChainWriter(model, self._tokenizer, budget=settings.chain_tokens, batch_size=settings.batch_size)

    def recommend(self, mode: Mode, histories: Sequence[Sequence[int]], k: int) -> list[Recommendation]:
        """Lists for some histories, decoded together.

        Args:
            mode: Ask at once, or after a chain.
            histories: Item numbers, oldest first; none empty.
            k: Items per list, at most `longest_list`; fewer where the catalogue, less what is excluded, has fewer.

        Raises:
            GreamError: A history is empty or leaves no item, ``k`` is out of range, or a prompt leaves no room in the
                model's context.
        """
        if not all(histories):
            raise GreamError("an empty history: at least one item needed")
        if not 1 <= k <= self.settings.beams:
            raise GreamError(f"a list of {k} items: 1 to {self.settings.beams} (the beams) needed")
        windows = [history[-self.settings.history :] for history in histories]
        reasoned = mode == "reasoning"
        texts = [
            prompt_text([self.items.catalog.text(item) for item in window], reasoned=reasoned, form=self.settings.form)
            for window in windows
        ]
        room = self._depth + (chain_room(self.settings.chain_tokens) if reasoned else 0)
        prompts = encode_prompts(self._tokenizer, texts, room=room, limit=self._limit)
        chains = None
        if reasoned:
            chains = self._writer.write(prompts, keys=range(len(prompts)))
            prompts = [[*prompt, *chain.tokens] for prompt, chain in zip(prompts, chains, strict=True)]
        found = self._search.search(prompts, histories if self.settings.exclude_history else None)
        return [
            Recommendation(
                mode=mode,
                history=tuple(shown(self.items[item]) for item in windows[row]),
                left_out=len(history) - len(windows[row]),
                reasoning=None
                if chains is None
                else self._reasoning(chains[row].text, chains[row].complete, int(found.items[row, 0])),
                items=tuple(
                    _ranked(self.items[int(item)], rank, float(score))
                    for rank, (item, score) in enumerate(
                        zip(found.items[row, :k], found.scores[row, :k], strict=True), start=1
                    )
                    if item >= 0
                ),
            )
            for row, history in enumerate(histories)
        ]

    def _reasoning(self, text: str, complete: bool, best: int) -> Reasoning:
        # The grammar is that of a whole answer: the first item ends it.
        stages = parse_reasoned_answer(text + self.items.catalog.text(best) + ANSWER_CLOSE)
        kept = [self.items.catalog.item_in(part) for part in stages.history] if stages else []
        return Reasoning(
            text=text,
            complete=complete,
            evidence=stages.evidence if stages else None,
            preference=stages.preference if stages else None,
            intent=stages.intent if stages else None,
            recommendation=stages.recommendation if stages else None,
            kept=tuple(shown(self.items[item]) for item in kept if item is not None),
        )


def shown(item: Item) -> ItemOut:
    """An item without its number."""
    return ItemOut(item_id=item.item_id, title=item.title, category=item.category, semantic_id=item.tokens)


def _ranked(item: Item, rank: int, score: float) -> RankedItem:
    return RankedItem(rank=rank, score=score, **dict(shown(item)))


@dataclass(frozen=True)
class Asked:
    """One user of a file, or of the command line.

    Attributes:
        user: What the file calls the user; None for the command line.
        history: Item numbers, oldest first.
    """

    user: str | int | None
    history: tuple[int, ...]


def find_history(items: Items, entries: Sequence[str]) -> tuple[int, ...]:
    """Item numbers of the entries of a history.

    Raises:
        GreamError: The history is empty or too long, or an entry names no item, see `Items.find`.
    """
    if not entries:
        raise GreamError("an empty history: at least one item needed")
    if len(entries) > LONGEST_HISTORY:
        raise GreamError(f"a history of {len(entries)} items: at most {LONGEST_HISTORY} are accepted")
    return tuple(items.find(entry) for entry in entries)


def read_users(path: Path, items: Items) -> list[Asked]:
    """Users from a JSON-lines file: ``{"user": NAME, "history": [ID, TITLE or SEMANTIC ID, ...]}`` per line.

    Raises:
        GreamError: The file cannot be read, or a line is no such object or names an unknown item; names file and line.
    """
    users = []
    for number, row in iterate_jsonl(path, remedy='an object with the keys "user" and "history" is expected'):
        try:
            users.append(_asked(row, items))
        except GreamError as error:
            raise GreamError(f"{path}:{number}: {error}") from None
    if not users:
        raise GreamError(f"{path}: holds no user; one JSON object per line is expected")
    return users


def _asked(row: Row, items: Items) -> Asked:
    if not {"history"} <= row.keys() <= {"user", "history"}:
        raise GreamError('an object with the keys "user" and "history" is expected')
    user, history = row.get("user"), row["history"]
    if not isinstance(user, str | int | None):
        raise GreamError('"user" must be a string or a number')
    if not isinstance(history, list) or not all(isinstance(entry, str) for entry in history):
        raise GreamError('"history" must be a list of strings: ids, titles or semantic ids')
    return Asked(user, find_history(items, history))


def recommend_all(
    model: LocalModel, mode: Mode, users: Sequence[Asked], k: int
) -> Iterator[tuple[Asked, Recommendation]]:
    """Lists of all users, in their order, batch by batch."""
    size = model.settings.batch_size
    for start in range(0, len(users), size):
        some = users[start : start + size]
        yield from zip(some, model.recommend(mode, [user.history for user in some], k), strict=True)
