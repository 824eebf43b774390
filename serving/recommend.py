"""Recommendations for a history that somebody names: in both modes, with one model, in this process or on servers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gream.config import Config
from gream.counted.fusion import chosen_fusion
from gream.decoding.chain_text import Chain
from gream.decoding.choices import ServerEngine
from gream.decoding.server_client import ServerSettings
from gream.dialogue import ANSWER_CLOSE, parse_reasoned_answer
from gream.engine.checkpoint import checkpoint_files, resolve_device
from gream.engine.contract import settle
from gream.engine.engine import Answer, Engine
from gream.engine.fusion import Fusion
from gream.engine.model import Model
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError
from gream.files import Row, iterate_jsonl

from .items import Item, Items
from .subset import find_subset

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


class Parts(Config):
    """What a fused score is the sum of.

    Attributes:
        log_probability: Of the item's id.
        item_score: Of the transitions that are added.
        weight: What an item score counts for.
    """

    log_probability: float
    item_score: float
    weight: float


class RankedItem(ItemOut):
    """A recommended item.

    Attributes:
        rank: From 1.
        score: Log-probability of the item's id, given the chain in reasoning mode, averaged over several; with item
            scores added where lists are fused.
        parts: None where lists are the model's alone.
    """

    rank: int
    score: float
    parts: Parts | None = None


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
        mode: How it was asked for.
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


@dataclass(frozen=True, kw_only=True)
class OnServers:
    """Servers that run the model.

    Attributes:
        engine: What runs there.
        servers: Where.
    """

    engine: ServerEngine
    servers: ServerSettings


class Recommender:
    """A model, loaded once for all modes. Not for two threads at a time.

    Attributes:
        items: The run's items.
        beams: Most items that can be asked for.
        longest_list: The same, where the catalogue is not smaller.
    """

    def __init__(
        self,
        checkpoint: Path,
        items: Items,
        settings: Settings,
        *,
        device: Device,
        batch_size: int,
        modes: Sequence[Mode] = tuple(Mode),
        template: Path | None = None,
        only: frozenset[int] | None = None,
        fusion: Fusion | None = None,
        on_servers: OnServers | None = None,
    ) -> None:
        """Load the model.

        Args:
            checkpoint: Its folder.
            items: The run's items, with the ids that the model knows them by.
            settings: How it is asked after a chain; without one where it is asked at once.
            device: Where it runs.
            batch_size: Histories decoded together.
            modes: Those whose settings are checked now, and not when the first history comes.
            template: Text file with the prompt of a model trained elsewhere.
            only: Items that lists may name; None for all.
            fusion: Item scores that are added.
            on_servers: Servers that run the model; None for this process. They are asked when somebody asks.

        Raises:
            GreamError: The folder is no checkpoint, its tokenizer lacks a token of the catalogue, or a setting is
                impossible.
        """
        checkpoint_files(checkpoint)
        if on_servers is not None and fusion is not None:
            raise GreamError("--fuse: item scores are added in this process only; leave --endpoint out")
        self.items = items
        self.beams = settings.beams
        self.longest_list = min(settings.beams, len(items if only is None else only))
        self._settings = replace(settings, k=self.longest_list)
        for mode in modes:
            settle(self._settings_of(mode), checkpoint, own_prompt=template is None)
        self._model = _model(checkpoint, on_servers, device, batch_size)
        self._checkpoint, self._template, self._only, self._fusion = checkpoint, template, only, fusion
        self._engines: dict[tuple[Mode, bool], Engine] = {}
        for mode in modes:
            self._engine(mode, settings.exclude_history)

    def _settings_of(self, mode: Mode) -> Settings:
        return self._settings if mode is Mode.reasoning else self._settings.direct

    def _engine(self, mode: Mode, exclude_history: bool) -> Engine:
        if (mode, exclude_history) not in self._engines:
            settings = replace(self._settings_of(mode), exclude_history=exclude_history)
            self._engines[mode, exclude_history] = Engine.open(
                self._model, self._checkpoint, self.items.index, settings, self._template, self._only, self._fusion
            )
        return self._engines[mode, exclude_history]

    def recommend(
        self, mode: Mode, histories: Sequence[Sequence[int]], k: int, exclude_history: bool | None = None
    ) -> list[Recommendation]:
        """Lists for some histories, decoded together.

        Args:
            mode: Ask at once, or after a chain.
            histories: Item numbers, oldest first; none empty.
            k: Items per list, at most `longest_list`; fewer where the catalogue, less what is excluded, has fewer.
            exclude_history: Whether lists leave out what the histories hold; None for what the settings say.

        Raises:
            GreamError: A history is empty or leaves no item, ``k`` is out of range, or a prompt leaves no room in the
                model's context.
        """
        if not all(histories):
            raise GreamError("an empty history: at least one item needed")
        if not 1 <= k <= self.beams:
            raise GreamError(f"a list of {k} items: 1 to {self.beams} (the beams) needed")
        engine = self._engine(mode, self._settings.exclude_history if exclude_history is None else exclude_history)
        # Of the history alone, so that sampled chains do not depend on who else is asking.
        keys = [zlib.crc32(repr(tuple(history)).encode()) for history in histories]
        answers = engine.answer(engine.queries(histories, keys))
        return [
            Recommendation(
                mode=mode,
                history=tuple(shown(self.items[item]) for item in engine.window(history)),
                left_out=len(history) - len(engine.window(history)),
                reasoning=None if answer.chain is None else self._reasoning(answer.chain, answer.items[0]),
                items=tuple(
                    RankedItem(rank=rank, score=score, parts=self._parts(answer, item), **dict(shown(self.items[item])))
                    for rank, (item, score) in enumerate(zip(answer.items[:k], answer.scores[:k], strict=True), start=1)
                ),
            )
            for history, answer in zip(histories, answers, strict=True)
        ]

    def _parts(self, answer: Answer, item: int) -> Parts | None:
        if answer.candidates is None or self._fusion is None:
            return None
        at = int(np.flatnonzero(answer.candidates.items == item)[0])
        log, score = float(answer.candidates.logs[at]), float(answer.candidates.scores[at])
        return Parts(log_probability=log, item_score=score, weight=self._fusion.weight)

    def _reasoning(self, chain: Chain, best: int) -> Reasoning:
        # The grammar is that of a whole answer: the first item ends it.
        stages = parse_reasoned_answer(chain.text + self.items.ids.text(best) + ANSWER_CLOSE)
        kept = [self.items.ids.items_in(part) for part in stages.history] if stages else []
        return Reasoning(
            text=chain.text,
            complete=chain.complete,
            evidence=stages.evidence if stages else None,
            preference=stages.preference if stages else None,
            intent=stages.intent if stages else None,
            recommendation=stages.recommendation if stages else None,
            kept=tuple(shown(self.items[found[0]]) for found in kept if found),
        )


def _model(checkpoint: Path, on_servers: OnServers | None, device: Device, batch_size: int) -> Model:
    # Imported here, so that what is wrong with the arguments is said before seconds of imports.
    if on_servers is None:
        from gream.engine.local import LocalModel

        return LocalModel.load(checkpoint, resolve_device(device), batch_size)
    from gream.engine.remote import ServedModel

    return ServedModel(checkpoint, on_servers.engine, on_servers.servers)


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A model and the run that it recommends from.

    Attributes:
        run: Run folder.
        checkpoint: Model folder.
        settings: How the model is asked.
        device: Where it runs.
        batch_size: Histories decoded together.
        only: Parts of the catalogue that lists may name, see `find_subset`; all of it where none is named.
        index: Ids that the model knows the run's items by; None for the run's own.
        template: Text file with the prompt of a model trained elsewhere.
        fused: Evaluation of the run whose item scores and weights are added.
        on_servers: Servers that run the model; None for this process.
    """

    run: Path
    checkpoint: Path
    settings: Settings
    device: Device
    batch_size: int
    only: Sequence[str] = ()
    index: Path | None = None
    template: Path | None = None
    fused: str | None = None
    on_servers: OnServers | None = None

    def items(self) -> Items:
        """The run's items, see `Items.load`."""
        return Items.load(self.run, self.index)

    def recommender(self, items: Items, modes: Sequence[Mode]) -> Recommender:
        """The loaded model; see `Recommender`."""
        return Recommender(
            self.checkpoint,
            items,
            self.settings,
            device=self.device,
            batch_size=self.batch_size,
            modes=modes,
            template=self.template,
            only=find_subset(self.run, items, self.only) if self.only else None,
            fusion=None if self.fused is None else chosen_fusion(self.run, self.fused),
            on_servers=self.on_servers,
        )


def shown(item: Item) -> ItemOut:
    """An item without its number."""
    return ItemOut(item_id=item.item_id, title=item.title, category=item.category, semantic_id=item.tokens)


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
    try:
        str(user).encode()
    except UnicodeEncodeError:
        # Legal in JSON and not in UTF-8, in which the lists are written.
        raise GreamError('"user" holds half of a surrogate pair, which is no character; leave it out') from None
    if not isinstance(history, list) or not all(isinstance(entry, str) for entry in history):
        raise GreamError('"history" must be a list of strings: ids, titles or semantic ids')
    return Asked(user, find_history(items, history))


def recommend_all(
    recommender: Recommender, mode: Mode, users: Sequence[Asked], k: int, batch_size: int
) -> Iterator[tuple[Asked, Recommendation]]:
    """Lists of all users, in their order, batch by batch."""
    for start in range(0, len(users), batch_size):
        some = users[start : start + batch_size]
        yield from zip(some, recommender.recommend(mode, [user.history for user in some], k), strict=True)
