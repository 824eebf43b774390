"""The items of a run as people name them: by id, by title (also a misspelt one), by semantic id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gream.errors import GreamError
from gream.semantic_ids.item_ids import ItemIds
from gream.semantic_ids.vocabulary import find_tokens
from gream.tables import read_table
from rapidfuzz import fuzz, process, utils

_COLUMNS = ("item", "item_id", "title", "categories")

# Similarity (0 to 100, `rapidfuzz.fuzz.WRatio`) from which a title counts as meant, and by how much it must be
# ahead of every other title.
_SURE = 87.0
_AHEAD = 2.0
# Titles below this are no help to somebody who mistyped one.
_SIMILAR = 45.0
_NEAREST = 3
# What an error line repeats of an entry.
_SHOWN = 80


class UnknownItemError(GreamError):
    """What somebody wrote names no item, or several."""


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        number: Its number in the run, as predictions name it.
        item_id: Its id in the data.
        title: May be empty.
        category: Most specific category; may be empty.
        tokens: Its semantic id.
    """

    number: int
    item_id: str
    title: str
    category: str
    tokens: tuple[str, ...]


class Items:
    """All items of a run, to be looked up and searched.

    Attributes:
        ids: Their semantic ids.
        index: The file that these are from.
    """

    def __init__(self, items: Sequence[Item], ids: ItemIds, index: Path) -> None:
        """Take the items, in the order of their numbers.

        Args:
            items: Item 0 first.
            ids: Their semantic ids.
            index: The file that these are from.
        """
        self._items = tuple(items)
        self.ids, self.index = ids, index
        self._by_id = {item.item_id: item.number for item in items}
        # As the comparison sees them: lower case, letters and digits only.
        self._plain = [utils.default_process(item.title) for item in items]
        self._by_title: dict[str, list[int]] = defaultdict(list)
        for item, plain in zip(items, self._plain, strict=True):
            if plain:
                self._by_title[plain].append(item.number)

    @staticmethod
    def load(run: Path, index: Path | None = None) -> Items:
        """Read ``items.parquet`` of a run folder, and its ``index.json`` or another of the same items.

        Raises:
            GreamError: A file cannot be read, or the two do not belong together.
        """
        index = index or run / "index.json"
        ids = ItemIds.load(index)
        path = run / "items.parquet"
        rows = read_table(path, *_COLUMNS).sort("item").rows()
        if [row[0] for row in rows] != list(range(len(ids))):
            raise GreamError(
                f"{path}: holds {len(rows)} items where {index.name} has 0 to {len(ids) - 1}; make both again"
            )
        return Items(
            [
                Item(number, item_id, title or "", (kinds or [""])[-1], ids.of_items[number])
                for number, item_id, title, kinds in rows
            ],
            ids,
            index,
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Item:
        return self._items[number]

    def find(self, entry: str) -> int:
        """The item that ``entry`` names: its id in the data, its semantic id, or its title.

        A title is compared without regard to case and punctuation; a misspelt one is understood where one item is
        clearly nearest.

        Raises:
            UnknownItemError: No item or several are meant; the nearest titles are named.
        """
        entry = entry.strip()
        if not entry:
            raise UnknownItemError("an empty entry names no item; give an id, a title or a semantic id")
        if (number := self._by_id.get(entry)) is not None:
            return number
        tokens = find_tokens(entry)
        if tokens and "".join(tokens) == "".join(entry.split()):
            found = self.ids.items_in(entry)
            if len(found) == 1:
                return found[0]
            raise UnknownItemError(
                f"{len(found)} items have the semantic id {_short(entry)}; name one by its id, e.g. {self._some(found)}"
                if found
                else f"no item has the semantic id {_short(entry)}; see index.json for those that exist"
            )
        plain = utils.default_process(entry)
        near = [] if plain in self._by_title else self._similar(plain, _NEAREST + 1)
        if near and near[0][1] >= _SURE and (len(near) == 1 or near[0][1] - near[1][1] >= _AHEAD):
            plain = self._plain[near[0][0]]
        same = self._by_title.get(plain, [])
        if len(same) == 1:
            return same[0]
        if same:
            raise UnknownItemError(
                f"{len(same)} items are titled '{_short(entry)}'; name one by its id, e.g. {self._some(same)}"
            )
        titles = "; ".join(f"'{_short(self[number].title)}'" for number, score in near[:_NEAREST] if score >= _SIMILAR)
        raise UnknownItemError(
            f"no item has the id or title '{_short(entry)}'; "
            + (f"nearest titles: {titles}" if titles else "no title is near it")
        )

    def search(self, query: str, limit: int) -> list[int]:
        """Items for a search box, best first: the id itself, titles that hold every word, then similar ones.

        Args:
            query: What was typed; nothing finds the first items.
            limit: Most items returned.
        """
        query = query.strip()
        plain = utils.default_process(query)
        found: dict[int, None] = {}
        if (number := self._by_id.get(query)) is not None:
            found[number] = None
        found.update(dict.fromkeys(self.ids.items_in(query)))
        words = plain.split()
        for number, title in enumerate(self._plain):
            if len(found) >= limit:
                break
            if all(word in title for word in words):
                found[number] = None
        if len(found) < limit and plain:
            found.update((number, None) for number, score in self._similar(plain, limit) if score >= _SIMILAR)
        return list(found)[:limit]

    def _some(self, numbers: Sequence[int]) -> str:
        return ", ".join(self[number].item_id for number in numbers[:_NEAREST])

    def _similar(self, plain: str, limit: int) -> list[tuple[int, float]]:
        """Items with their similarity, nearest first, items of one title once."""
        ranked: list[tuple[int, float]] = []
        seen: set[str] = set()
        # More than asked for, as titles may repeat.
        for title, score, number in process.extract(plain, self._plain, scorer=fuzz.WRatio, limit=4 * limit):
            if title and title not in seen:
                seen.add(title)
                ranked.append((number, score))
        return ranked[:limit]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
