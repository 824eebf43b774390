"""A part of the catalogue: a category, a brand, or the items of a file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from gream.errors import GreamError
from gream.tables import read_table

from .items import Items, UnknownItemError


def find_subset(run: Path, items: Items, wanted: Sequence[str]) -> frozenset[int]:
    """The items of any of the parts that are named.

    Args:
        run: Run folder, for categories and brands.
        items: Its items.
        wanted: ``category=NAME``, ``brand=NAME``, or a file with an item's id, title or semantic id per line.

    Raises:
        GreamError: No item is of that category or brand, or the file cannot be read or names no item in a line.
    """
    found: set[int] = set()
    for part in wanted:
        kind, sign, name = part.partition("=")
        if sign and kind in ("category", "brand"):
            found |= _having(run, kind, name)
        else:
            found |= _of_file(Path(part), items)
    return frozenset(found)


def _having(run: Path, kind: str, name: str) -> set[int]:
    table = read_table(run / "items.parquet", "item", "brand", "categories")
    wanted = name.strip().casefold()
    known: dict[str, str] = {}
    found = set()
    for item, brand, categories in table.rows():
        values = [brand] if kind == "brand" else categories
        for value in values or ():
            if value:
                known[value.casefold()] = value
                if value.casefold() == wanted:
                    found.add(item)
    if not found:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(known[one] for one in near)}" if near else ""
        raise GreamError(f"--only {kind}={name[:80]}: no item has this {kind}{hint}")
    return found


def _of_file(path: Path, items: Items) -> set[int]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GreamError(
            f"--only {str(path)[:200]}: neither category=NAME nor brand=NAME nor a file that can be read ({error})"
        ) from None
    found = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.add(items.find(line))
            except UnknownItemError as error:
                raise GreamError(f"{path}:{number}: {error}") from None
    if not found:
        raise GreamError(f"{path}: names no item; write an id, a title or a semantic id per line")
    return found
