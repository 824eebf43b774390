"""The ids that a model knows items by: in whatever spelling, of whatever length, and shared or not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gream.semantic_ids.published import read_token_lists
from gream.semantic_ids.vocabulary import find_tokens


@dataclass(frozen=True)
class ItemIds:
    """The ids that a model knows items by.

    Attributes:
        of_items: Tokens of each item's id, item 0 first, as they stand in text; items may share an id.
        ids: Every distinct id, in the order of its first item.
        items: The items of each distinct id, lower numbers first.
    """

    of_items: tuple[tuple[str, ...], ...]
    ids: tuple[tuple[str, ...], ...]
    items: tuple[tuple[int, ...], ...]

    @staticmethod
    def load(path: Path) -> ItemIds:
        """Read an ``index.json``, plain or gzip'd, whatever its tokens look like and however long its ids are.

        Raises:
            GreamError: The file cannot be read, or its items are not 0 to n-1 with a list of tokens each.
        """
        return ItemIds.of(read_token_lists(path))

    @staticmethod
    def of(ids: Sequence[Sequence[str]]) -> ItemIds:
        """Take the tokens of each item, item 0 first."""
        return ItemIds._of(tuple(map(tuple, ids)), range(len(ids)))

    @staticmethod
    def _of(of_items: tuple[tuple[str, ...], ...], known: Iterable[int]) -> ItemIds:
        """The ids of the items ``known``, lower numbers first, among all items' ids."""
        items: dict[tuple[str, ...], list[int]] = {}
        for item in known:
            items.setdefault(of_items[item], []).append(item)
        return ItemIds(of_items, tuple(items), tuple(map(tuple, items.values())))

    def __len__(self) -> int:
        return len(self.of_items)

    def only(self, items: Collection[int]) -> ItemIds:
        """The ids of some items alone; of all items, `text` still knows the id.

        Args:
            items: Their numbers.
        """
        return ItemIds._of(self.of_items, sorted(items))

    def text(self, item: int) -> str:
        """The id of ``item`` as text."""
        return "".join(self.of_items[item])

    def number(self, item: int) -> int:
        """Number of the distinct id of ``item``, which is among those known."""
        return self._number[self.of_items[item]]

    def items_in(self, text: str) -> tuple[int, ...]:
        """The items whose id the semantic-id tokens in ``text`` form; none where it is no id."""
        number = self._number.get(tuple(find_tokens(text)))
        return () if number is None else self.items[number]

    def had_only_by(self, items: Collection[int]) -> list[int]:
        """Numbers of the distinct ids that no other items than ``items`` have."""
        own = {self._number[id] for item in items if (id := self.of_items[item]) in self._number}
        return [number for number in own if all(item in items for item in self.items[number])]

    @cached_property
    def _number(self) -> dict[tuple[str, ...], int]:
        return {tokens: number for number, tokens in enumerate(self.ids)}
