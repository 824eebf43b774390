"""The grounded template teacher: item descriptions, preferences and chains argued from a history's real evidence.

It needs no language model. Every word it says about a user comes from the items of the history or from how the whole
training set moves from category to category; never from the text of the item to be predicted. The target is used as
reverse reasoning uses it (paper section 3.3): to choose which of the true observations to argue from.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gream.dialogue import ReasonedAnswer

from ..readers.text import cut_text
from ..tables import Item

# How many of the categories that follow a category count as its usual successors.
SUCCESSORS = 3
# A denoised history holds so many items at most, the latest ones.
MOST_KEPT = 8
# What lies so few items back is recent.
RECENT = 3
# Words of a title that stand for an item without category and brand.
TITLE_WORDS = 5
# Of scripts that put no spaces between words.
KIND_CHARACTERS = 40


def describe_item(item: Item) -> str:
    """The item's own description, or one composed of title, categories and brand; empty where its title is all."""
    if item.description:
        return item.description
    path, brand = " > ".join(item.categories), item.brand
    if not path and not brand:
        return ""
    return f"{item.title}{f' ({path})' if path else ''}{f', by {brand}' if brand else ''}."


@dataclass(frozen=True)
class Preference:
    """What a training history says about its user.

    Attributes:
        general: Over the whole history.
        long_term: Over all but the three latest items.
        short_term: Over the three latest items.
    """

    general: str
    long_term: str
    short_term: str


def describe_user(history: Sequence[Item]) -> Preference:
    """Preferences in words, from counts over the history (oldest first, at least one item)."""
    recent = history[-RECENT:]
    earlier = history[:-RECENT] or history
    return Preference(
        general=f"In all {_counts(history)}.",
        long_term=f"Earlier {_counts(earlier)}.",
        short_term=f"Lately {_counts(recent)}.",
    )


def _counts(items: Sequence[Item]) -> str:
    # Items without a category are what their brand, or their title, says.
    kinds = Counter(label_of(item) or kind_of(item) for item in items).most_common(2)
    brands = Counter(item.brand for item in items if item.category and item.brand).most_common(1)
    liked = " and ".join(f"{name} ({count} of {len(items)})" for name, count in kinds)
    return liked + (f", often by {brands[0][0]}" if brands else "")


def state_intention(target: Item) -> str:
    """A first-person wish for an item of the target's kind, empty where it has none.

    It does not name the title (paper section 3.2).
    """
    if not target.category and not target.brand:
        return ""
    wish = f"I am looking for {target.category or 'something'}"
    return wish + (f" by {target.brand}." if target.brand else ".")


def label_of(item: Item) -> str:
    """What stands for an item where kinds follow each other: its category, its brand where it has none."""
    return item.category or item.brand


def usual_successors(sequences: Iterable[Sequence[Item]]) -> dict[str, list[str]]:
    """Labels (`label_of`) that follow each label in training sequences, commonest first.

    Only those that follow it more than once, and more often than they follow items at large: what everybody buys is
    no consequence of anything.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sequence in sequences:
        for first, second in pairwise(map(label_of, sequence)):
            if first and second:
                counts[first][second] += 1
    everywhere = sum(counts.values(), Counter[str]())
    total = everywhere.total()
    # Ties by name: Counter.most_common would keep the order of first sight.
    return {
        label: [
            name
            for name, count in sorted(after.items(), key=lambda pair: (-pair[1], pair[0]))
            if count > 1 and count * total > everywhere[name] * after.total()
        ][:SUCCESSORS]
        for label, after in counts.items()
    }


def argue(
    history: Sequence[Item],
    target: Item,
    history_ids: Sequence[str],
    target_id: str,
    successors: Mapping[str, Sequence[str]],
    random_: random.Random,
) -> ReasonedAnswer | None:
    """A five-stage chain from ``history`` to ``target``, or None where the history does not support the target.

    Args:
        history: Items as `data_processing.teacher.labels.labelled` gives them, oldest first.
        target: The item to be predicted; its text is not used.
        history_ids: Semantic ids of the history, as text.
        target_id: Semantic id of the target, as text.
        successors: `usual_successors` of the training set.
        random_: Chooses among wordings.
    """
    last = history[-1]
    wanted = label_of(target)
    follows = wanted != label_of(last) and wanted in successors.get(label_of(last), ())
    brand = target.brand if target.brand and any(item.brand == target.brand for item in history) else ""
    category = ""
    if target.category and (follows or any(item.category == target.category for item in history)):
        category = target.category
    if not category and not brand and not follows:
        return None

    kept = [
        index
        for index, item in enumerate(history)
        if index == len(history) - 1 or (brand and item.brand == brand) or (category and item.category == category)
    ][-MOST_KEPT:]
    return ReasonedAnswer(
        evidence=_evidence(history, history_ids[-1], brand, category, random_),
        preference=_preference(history, brand, category, random_),
        intent=_intent(history, wanted if follows else "", category, random_),
        recommendation=_recommendation(brand or ("" if category else wanted), category, random_),
        history=tuple(history_ids[index] for index in kept),
        answer=target_id,
    )


def kind_of(item: Item) -> str:
    """An item in the words that chains use: category and brand, the first words of its title where it has neither."""
    if not item.category and not item.brand:
        return cut_text(" ".join(item.title.split()[:TITLE_WORDS]), KIND_CHARACTERS)
    return f"{item.category or 'one'} by {item.brand}" if item.brand else item.category


def _evidence(history: Sequence[Item], latest_id: str, brand: str, category: str, random_: random.Random) -> str:
    latest = random_.choice(("the latest, {}, is {}", "last came {}, {}", "most recent is {}, {}"))
    facts = [latest.format(latest_id, kind_of(history[-1]))]
    counts = ((brand, sum(item.brand == brand for item in history)), (category, _count(history, category)))
    facts += [f"{name} in {count} of {len(history)}" for name, count in counts if name and count]
    return "; ".join(facts) + "."


def _count(history: Sequence[Item], category: str) -> int:
    return sum(item.category == category for item in history)


def _preference(history: Sequence[Item], brand: str, category: str, random_: random.Random) -> str:
    if brand:
        return f"{brand}, {_recency(any(item.brand == brand for item in history[-RECENT:]), random_)}."
    seen = _count(history, category) if category else 0
    if seen:
        often = random_.choice(("more than once", "again and again")) if seen > 1 else "once"
        return f"{category}, {often}, {_recency(_count(history[-RECENT:], category) > 0, random_)}."
    return random_.choice(("no fixed brand.", "open to any brand."))


def _recency(lately: bool, random_: random.Random) -> str:
    return random_.choice(("still now", "up to now") if lately else ("earlier on", "in the past"))


def _intent(history: Sequence[Item], follower: str, category: str, random_: random.Random) -> str:
    if follower:
        return random_.choice(
            ("after {0}, people here turn to {1}.", "{1}, as so often after {0}.", "from {0} the way leads to {1}.")
        ).format(label_of(history[-1]), follower)
    if category:
        return f"more {category}." if _count(history[-RECENT:], category) else f"back to {category}."
    return random_.choice(("stay with the brand.", "something else by the same brand."))


def _recommendation(brand: str, category: str, random_: random.Random) -> str:
    what = category or "an item"
    maker = f"by {brand}" if brand else "of any brand"
    return random_.choice(("{} {}.", "look for {} {}.")).format(what, maker)
