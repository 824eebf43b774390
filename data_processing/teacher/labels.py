"""What chains call an item: a brand and a category that tell it apart from other items.

Not all do: a category that most of the catalogue shares argues for nothing, and one of the same name under several
parents is ambiguous. Where an item has no brand, its title often begins with one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..tables import Item

# A label that a larger share of the catalogue has is no reason for one item rather than another.
MOST_SHARED = 0.5
# A title's first words are a brand where so many titles begin with them, where they seldom stand elsewhere, ...
_LEAST_TITLES = 3
_MOSTLY_FIRST = 0.7
# ... and where most titles that begin with the shorter name go on with the longer one.
_MOSTLY_LONGER = 0.6
_MOST_WORDS = 3
_LEAST_LETTERS = 3
_AROUND = ',:;-()[]"'


def labelled(catalogue: Sequence[Item]) -> list[Item]:
    """The catalogue as chains speak of it: brands completed from titles, categories unambiguous or empty.

    Args:
        catalogue: Items by number.
    """
    known = {item.brand.casefold(): item.brand for item in reversed(catalogue) if item.brand}
    brands = [
        item.brand or _known_start(item.title, known) or start
        for item, start in zip(catalogue, title_brands([item.title for item in catalogue]), strict=True)
    ]
    shared_brands = _too_common(brands)
    shared_categories = _too_common([item.category for item in catalogue])
    parents: dict[str, set[str]] = defaultdict(set)
    for item in catalogue:
        parents[item.category].add(_parent(item))

    def category(item: Item) -> str:
        if item.category in shared_categories:
            return ""
        if len(parents[item.category]) > 1 and _parent(item):
            return f"{item.category} ({_parent(item)})"
        return item.category

    return [
        replace(item, brand="" if brand in shared_brands else brand, category=category(item))
        for item, brand in zip(catalogue, brands, strict=True)
    ]


def title_brands(titles: Sequence[str]) -> list[str]:
    """For each title the brand that it seems to begin with, or an empty text.

    Args:
        titles: Of the whole catalogue.
    """
    words = [[word.strip(_AROUND) for word in title.split()] for title in titles]
    folded = [[word.casefold() for word in title] for title in words]
    anywhere = Counter(word for title in folded for word in set(title))
    first = Counter(
        tuple(title[:length]) for title in folded for length in range(1, _MOST_WORDS + 1) if len(title) > length
    )

    def length_of_brand(title: Sequence[str]) -> int:
        if (
            not title
            or not title[0][:1].isalpha()
            or first[tuple(title[:1])] < max(_LEAST_TITLES, _MOSTLY_FIRST * anywhere[title[0]])
        ):
            return 0
        length = 1
        while length < min(_MOST_WORDS, len(title) - 1):
            longer = first[tuple(title[: length + 1])]
            if longer < max(_LEAST_TITLES, _MOSTLY_LONGER * first[tuple(title[:length])]):
                break
            length += 1
        return length if sum(map(str.isalnum, "".join(title[:length]))) >= _LEAST_LETTERS else 0

    spelt: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    lengths = [length_of_brand(title) for title in folded]
    for title, low, length in zip(words, folded, lengths, strict=True):
        spelt[tuple(low[:length])][" ".join(title[:length])] += 1
    # One spelling of each, the commonest; ties by the alphabet.
    chosen = {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in spelt.items()}
    return [chosen[tuple(low[:length])] for low, length in zip(folded, lengths, strict=True)]


def _known_start(title: str, known: dict[str, str]) -> str:
    """The brand of another item with which a title begins, the longest where there are several."""
    folded = [word.strip(_AROUND) for word in title.casefold().split()]
    for length in range(len(folded), 0, -1):
        if (brand := known.get(" ".join(folded[:length]))) is not None:
            return brand
    return ""


def _parent(item: Item) -> str:
    return item.categories[-2] if len(item.categories) > 1 else ""


def _too_common(labels: Sequence[str]) -> set[str]:
    return {label for label, count in Counter(labels).items() if count > MOST_SHARED * len(labels)}
