"""What belongs to a checkpoint that was trained elsewhere: its ids, in its own spelling, and its own prompt."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gream.errors import GreamError
from gream.semantic_ids.published import read_token_lists

_HISTORY = re.compile(r"\{history(?::([^{}]*))?\}")


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
        of_items = tuple(read_token_lists(path))
        items: dict[tuple[str, ...], list[int]] = {}
        for item, tokens in enumerate(of_items):
            items.setdefault(tokens, []).append(item)
        return ItemIds(of_items, tuple(items), tuple(map(tuple, items.values())))

    def __len__(self) -> int:
        return len(self.of_items)

    def text(self, item: int) -> str:
        """The id of ``item`` as text."""
        return "".join(self.of_items[item])

    def had_only_by(self, items: Collection[int]) -> list[int]:
        """Numbers of the distinct ids that no other items than ``items`` have."""
        own = {self._number[self.of_items[item]] for item in items}
        return [number for number in own if all(item in items for item in self.items[number])]

    @cached_property
    def _number(self) -> dict[tuple[str, ...], int]:
        return {tokens: number for number, tokens in enumerate(self.ids)}


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt as text with one place for the history.

    Attributes:
        before: Text in front of the history.
        separator: What stands between two items of it.
        after: Text behind it.
    """

    before: str
    separator: str
    after: str

    @staticmethod
    def load(path: Path) -> PromptTemplate:
        r"""Read a template: text, special tokens included, with ``{history}`` or ``{history:SEPARATOR}`` in it.

        Items are separated by a space unless told otherwise; ``\n`` in the separator is a new line. A new line at the
        end of the file, which editors put there, is not part of the prompt.

        Raises:
            GreamError: The file cannot be read, or does not name the history exactly once.
        """
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise GreamError(f"{path}: cannot be read as text ({error})") from None
        places = list(_HISTORY.finditer(text))
        if len(places) != 1:
            raise GreamError(f"{path}: names the history {len(places)} times; write {{history}} or {{history:, }} once")
        separator = " " if places[0][1] is None else places[0][1].replace("\\n", "\n")
        return PromptTemplate(text[: places[0].start()], separator, text[places[0].end() :])

    def render(self, history: Sequence[str]) -> str:
        """The prompt for a history of ids as text, oldest first."""
        return f"{self.before}{self.separator.join(history)}{self.after}"
