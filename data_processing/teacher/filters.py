"""Which chains are fit to be taught: every reason for which one is not, by name.

A chain has to argue from the history alone. It may use what training shows of kinds of things (categories, and brands
that the history holds), and its recommendation may describe the item to come; it must not know that item beforehand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

from gream.dialogue import ReasonedAnswer, join_history, parse_reasoned_answer
from gream.semantic_ids.vocabulary import TOKEN_PATTERN

from ..tables import Item
from ..words import SPACELESS, is_spaceless
from ..words import words_of as split
from .template import kind_of, label_of

# A word of a title is distinctive where a smaller share of all titles holds it, or hardly any.
DISTINCTIVE_SHARE = 0.01
DISTINCTIVE_COUNT = 2
DISTINCTIVE_LETTERS = 3
# So many words of a title in a row name it. A shorter title is named by all its words, but one or two words of an
# item that is not at issue are a kind of thing.
TITLE_WORDS = 5
OTHER_TITLE_WORDS = 3

_CLAUSE_END = re.compile(r"[.;:!?](?:\s|$)")
_ID = re.compile(rf"(?:{TOKEN_PATTERN.pattern})+")
_UNIT = re.compile(rf"{TOKEN_PATTERN.pattern}|[{SPACELESS}]|\w+|[^\w\s]")


class Rejection(StrEnum):
    """Why a chain is not taught."""

    stages = "stages missing or out of order"
    answer = "answer is not the target"
    leak = "target known before it is due"
    unknown_item = "item that is not in the history"
    malformed_id = "malformed semantic id"
    not_denoised = "rewritten history is no part of the history"
    too_long = "too long"


# Titles and brands are looked at again and again.
words_of = lru_cache(maxsize=1 << 17)(split)


# Words that any text may hold: they tell no title from another.
FUNCTION_WORDS = frozenset(
    words_of(
        """
        a about after again all also an and any are as at back be been before both but by can each else even ever
        every few first for from get goes has have he her his how if in into is it its just last latest less like look
        many may more most much my near new next no none not now of often on once one only open or other our out over
        own same she so some something still such than that the their them then there they this those three through to
        together too twice two under until up upon use used usual very was way we well were what when which while who
        will with within without yet you your
        """
    )
)


def length_of(text: str) -> int:
    """Semantic-id tokens, words and punctuation marks: about the tokens of a model that knows the words."""
    return len(_UNIT.findall(text))


@dataclass(frozen=True)
class Titles:
    """The catalogue as filters see it.

    Attributes:
        catalogue: Items by number, as `data_processing.teacher.labels.labelled` gives them.
    """

    catalogue: Sequence[Item]

    @cached_property
    def _holding(self) -> Counter[str]:
        return Counter(word for item in self.catalogue for word in set(words_of(item.title)))

    @cached_property
    def _windows(self) -> dict[int, set[tuple[str, ...]]]:
        windows: dict[int, set[tuple[str, ...]]] = {}
        for item in self.catalogue:
            for window in self.windows(item, OTHER_TITLE_WORDS):
                windows.setdefault(len(window), set()).add(window)
        return windows

    def windows(self, item: Item, least: int) -> list[tuple[str, ...]]:
        """Runs of words that name an item; none where its title says no more than its kind.

        Args:
            item: Of the catalogue.
            least: A title of fewer words is named by nothing.
        """
        title = words_of(item.title)
        length = min(len(title), TITLE_WORDS)
        if length < least or not set(title) - kind_words(item) - set(words_of(item.brand)) - FUNCTION_WORDS:
            return []
        return [title[start : start + length] for start in range(len(title) - length + 1)]

    def distinctive(self, title: str) -> set[str]:
        """Words that few titles hold, those left out that any text may hold."""
        most = max(DISTINCTIVE_COUNT, DISTINCTIVE_SHARE * len(self.catalogue))
        return {
            word
            for word in set(words_of(title)) - FUNCTION_WORDS
            if (len(word) >= DISTINCTIVE_LETTERS or is_spaceless(word))
            and not word.isdigit()
            and self._holding[word] <= most
        }

    def named_in(self, words: Sequence[str]) -> set[tuple[str, ...]]:
        """Runs of ``words`` that name some item."""
        return {
            run
            for length, windows in self._windows.items()
            for start in range(len(words) - length + 1)
            if (run := tuple(words[start : start + length])) in windows
        }


def kind_words(item: Item) -> set[str]:
    """Words for the kind of an item: its categories, and its brand where the category says nothing."""
    return {word for text in (label_of(item), *item.categories) for word in words_of(text)}


def rejections(
    text: str,
    *,
    history: Sequence[Item],
    history_ids: Sequence[str],
    target: Item,
    target_id: str,
    titles: Titles,
    longest: int,
) -> list[Rejection]:
    """Why ``text`` is no chain to be taught; nothing where it is one.

    A leak is, before the recommendation: a distinctive word of the target's title, or its brand, that no text of the
    history holds, and anywhere before the answer: its id, its title, or all distinctive words of it.

    Args:
        text: A rendered answer, as `gream.dialogue.ReasonedAnswer.render` writes it.
        history: Items as `data_processing.teacher.labels.labelled` gives them, oldest first.
        history_ids: Their semantic ids.
        target: The item to be predicted.
        target_id: Its semantic id.
        titles: Of the catalogue.
        longest: Most units of `length_of`.
    """
    found: list[Rejection] = []
    if length_of(text) > longest:
        found.append(Rejection.too_long)
    answer = parse_reasoned_answer(text)
    if answer is None or not all(stage.strip() for stage in _stages(answer)):
        return [*found, Rejection.stages]
    if answer.answer != target_id:
        found.append(Rejection.answer)
    if not answer.history or not _is_subsequence(answer.history, history_ids):
        found.append(Rejection.not_denoised)

    rewritten = text.rsplit("\nHistory: ", 1)[1].split("\n", 1)[0]
    before = "\n".join((*_stages(answer), rewritten))
    named_ids = [match.group(0) for match in _ID.finditer(before)]
    rest = _ID.sub(" ", before)
    levels = {_levels(known) for known in (*history_ids, target_id)}
    if (
        "<|" in rest
        or "|>" in rest
        or rewritten != join_history(answer.history)
        or any(_levels(name) not in levels for name in named_ids)
    ):
        found.append(Rejection.malformed_id)
    unknown_ids = {name for name in named_ids if name not in history_ids and _levels(name) in levels}

    if target_id in unknown_ids or _leaks(answer, target, history, titles):
        found.append(Rejection.leak)
    if unknown_ids - {target_id} or _names_others(answer, target, history, titles):
        found.append(Rejection.unknown_item)
    return found


def _stages(answer: ReasonedAnswer) -> tuple[str, str, str, str]:
    return answer.evidence, answer.preference, answer.intent, answer.recommendation


def _leaks(answer: ReasonedAnswer, target: Item, history: Sequence[Item], titles: Titles) -> bool:
    seen = {word for item in history for text in (item.title, item.brand, *item.categories) for word in words_of(text)}
    stages = [words_of(stage) for stage in _stages(answer)]
    shown, inferred = {*stages[0], *stages[1]}, set(stages[2])
    everything = {word for stage in stages for word in stage}
    if any(
        any(_holds(stage, window) for stage in stages)
        and not any(_holds(words_of(item.title), window) for item in history)
        for window in titles.windows(target, 2)
    ):
        return True
    telling = titles.distinctive(target.title) - seen
    # What follows what in training may be argued from: an intent may name the kind of the target.
    kind = kind_words(target)
    if telling & shown or (telling - kind) & inferred:
        return True
    brand = words_of(target.brand)
    if brand and not set(brand) <= seen:
        argued = stages[:2] if target.brand == label_of(target) else stages[:3]
        if any(_holds(stage, brand) for stage in argued):
            return True
    # A recommendation may name the maker as well, but not all that tells the item from others.
    described = telling - kind - set(brand)
    return bool(described) and described <= everything


def _names_others(answer: ReasonedAnswer, target: Item, history: Sequence[Item], titles: Titles) -> bool:
    named = {
        run
        for stage in _stages(answer)
        # No title runs from one clause to the next.
        for clause in _CLAUSE_END.split(stage)
        for run in titles.named_in(words_of(clause))
    }
    return any(
        not any(
            _holds(words_of(text), run)
            for item in (*history, target)
            for text in (item.title, item.brand, " ".join(item.categories), kind_of(item))
        )
        for run in named
    )


def _holds(words: Sequence[str], run: Sequence[str]) -> bool:
    return f" {' '.join(run)} " in f" {' '.join(words)} "


@lru_cache(maxsize=1 << 18)
def _levels(identifier: str) -> str:
    """Level letters of an id, such as "abcd"."""
    return "".join(match.group(1) for match in TOKEN_PATTERN.finditer(identifier))


def _is_subsequence(part: Sequence[str], whole: Sequence[str]) -> bool:
    left = iter(whole)
    return all(name in left for name in part)
