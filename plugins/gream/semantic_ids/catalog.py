"""The catalog: which item has which semantic id. Read from and written to the published ``index.json`` form.

``index.json`` maps an item number, as a string, to its list of tokens: the file LC-Rec, LETTER and GREAM publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from gream.errors import GreamError
from gream.files import write_json
from gream.semantic_ids.published import read_index
from gream.semantic_ids.vocabulary import TOKEN_PATTERN, find_tokens


class Catalog:
    """Item number <-> semantic id, both ways, every id unique.

    Attributes:
        ids: For each item, from 0, its tokens.
    """

    def __init__(self, ids: Sequence[Sequence[str]], *, source: str = "catalog") -> None:
        """Take the tokens of each item.

        Args:
            ids: Tokens of each item, item 0 first; lengths may differ.
            source: Named in error lines.

        Raises:
            GreamError: No item, an empty id, a string that is no token, or an id that two items share.
        """
        self.ids = tuple(tuple(tokens) for tokens in ids)
        if not self.ids:
            raise GreamError(f"{source}: holds no item")
        self._items: dict[tuple[str, ...], int] = {}
        for item, tokens in enumerate(self.ids):
            if not tokens:
                raise GreamError(f"{source}: item {item} has an empty semantic id")
            for token in tokens:
                if not TOKEN_PATTERN.fullmatch(token):
                    raise GreamError(f"{source}: item {item} has '{token}', which is no semantic-id token")
            other = self._items.setdefault(tokens, item)
            if other != item:
                raise GreamError(
                    f"{source}: items {other} and {item} share the id {''.join(tokens)}; "
                    "resolve collisions first (semantic_ids.published.disambiguate_index)"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, item: int) -> str:
        """The semantic id of ``item`` as text."""
        return "".join(self.ids[item])

    def item_of(self, tokens: Sequence[str]) -> int | None:
        """The item that has exactly this id, or None."""
        return self._items.get(tuple(tokens))

    def item_in(self, text: str) -> int | None:
        """The item whose id the tokens in ``text`` form, or None."""
        return self.item_of(find_tokens(text))

    @cached_property
    def tokens(self) -> list[str]:
        """Every token that some item uses, sorted by level and code."""
        distinct = {token for tokens in self.ids for token in tokens}
        return sorted(distinct, key=_level_and_code)

    def save(self, path: Path) -> None:
        """Write ``index.json``."""
        write_json(path, {str(item): list(tokens) for item, tokens in enumerate(self.ids)})

    @staticmethod
    def load(path: Path) -> Catalog:
        """Read an ``index.json``, plain or gzip'd, ours or a published one.

        Raises:
            GreamError: The file cannot be read, is no such mapping, or its items are not 0 to n-1.
        """
        return Catalog(read_index(path), source=str(path))


def _level_and_code(token: str) -> tuple[str, int]:
    match = TOKEN_PATTERN.fullmatch(token)
    assert match is not None  # noqa: S101 - the constructor checked every token
    return match.group(1), int(match.group(2))
