"""The layout in which LC-Rec, LETTER and others publish: ``NAME.inter.json``, ``NAME.item.json``, ``NAME.index.json``.

The first maps each user to item numbers in order of time, the second each item number to its texts, the third each
item number to the tokens of its semantic id. Plain or gzip'd, the first two also zstd'd. ``NAME.sequences.jsonl`` may
stand for the first: a user to a line.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from gream.errors import GreamError
from gream.files import jsonl_line, write_text
from gream.semantic_ids.published import read_index
from gream.tables import read_table

from .readers.files import numbered_lines, plain_name
from .readers.text import METADATA
from .tables import read_sequences

# LC-Rec joins category names by a comma alone; a comma inside a name has a space behind it.
_CATEGORY_SEPARATOR = re.compile(r",(?! )")


def read_inter(path: Path) -> dict[str, list[int]]:
    """Items of each user in order of time, users in order of the file.

    Args:
        path: ``NAME.inter.json``, or ``NAME.sequences.jsonl`` with a ``user`` and ``items`` in every line. A user whose
            line says ``"complete": false`` is left out: neighbours in a sequence with gaps were none in time.

    Raises:
        GreamError: The file cannot be read, or maps a user to something other than item numbers.
    """
    if plain_name(path).endswith(".sequences.jsonl"):
        sequences = _read_sequence_lines(path)
    else:
        sequences = _read_mapping(path, "users to their items")
    for user, items in sequences.items():
        if not isinstance(items, list) or not all(type(item) is int and item >= 0 for item in items):
            raise GreamError(f"{path}: user '{user}' must have a list of item numbers, found {_shown(items)}")
    return sequences


def read_item(path: Path) -> pl.DataFrame:
    """What is published about each item, item 0 first; `clean_items` makes texts of it.

    Args:
        path: ``NAME.item.json``, or the two tab-separated columns of ``NAME.item2id``, which hold no texts.

    Returns:
        item_id (the ASIN where it is given, else the number), title, description (list), brand, category (list).

    Raises:
        GreamError: The file cannot be read, its numbers are not 0 to n-1, or a field is neither a text nor a list.
    """
    rows = _read_item2id(path) if plain_name(path).endswith(".item2id") else _read_numbered(path, "their texts")
    columns: dict[str, list[Any]] = {name: [] for name in METADATA}
    for item in range(len(rows)):
        row = rows[item]
        if not isinstance(row, Mapping):
            raise GreamError(f"{path}: item {item} must have named texts, found {_shown(row)}")
        columns["item_id"].append(str(row.get("asin") or item))
        # Sports is published with a shortened title only.
        columns["title"].append(_text(path, item, "title", row.get("title") or row.get("textual_id")))
        columns["description"].append(_texts(path, item, "description", row.get("description"), _paragraphs))
        columns["brand"].append(_text(path, item, "brand", row.get("brand")))
        columns["category"].append(_texts(path, item, "categories", row.get("categories"), _CATEGORY_SEPARATOR.split))
    frame = pl.DataFrame(columns, schema=METADATA)
    if frame["item_id"].n_unique() < len(frame):
        raise GreamError(f"{path}: two items have the same ASIN; download the file again")
    return frame


def respell(token: str, *, bars: bool) -> str:
    """A token as ``<|a_1|>`` (with bars) or as ``<a_1>``, whichever it was."""
    name = token.strip("<|>")
    return f"<|{name}|>" if bars else f"<{name}>"


def export(name: str, *, bars: bool, interactions: Path, items: Path, index: Path | None, out: Path) -> None:
    """Write the folder ``published`` with NAME.inter.json, NAME.item.json and, where ids exist, NAME.index.json.

    Args:
        name: Of the data set.
        bars: Spell tokens ``<|a_1|>``, as GREAM does; else ``<a_1>``, as LC-Rec and most others do.
        interactions: ``interactions.parquet``; users and items keep their numbers.
        items: ``items.parquet``.
        index: ``index.json``.
        out: Existing folder to write to.

    Raises:
        GreamError: See `gream.semantic_ids.published.read_index`.
    """
    folder = out / "published"
    folder.mkdir(exist_ok=True)
    rows = read_table(items).sort("item").iter_rows(named=True)
    texts = {
        row["item"]: {
            "asin": row["item_id"],
            "title": row["title"],
            "description": row["description"],
            "brand": row["brand"],
            "categories": [row["categories"]],
        }
        for row in rows
    }
    files: dict[str, Mapping[int, Any]] = {"inter": read_sequences(interactions), "item": texts}
    if index is not None:
        files["index"] = {
            item: [respell(token, bars=bars) for token in own] for item, own in enumerate(read_index(index))
        }
    for kind, content in files.items():
        write_text(folder / f"{name}.{kind}.json", jsonl_line(content))


def _read_mapping(path: Path, what: str) -> dict[str, Any]:
    content = b"".join(line for _, line in numbered_lines(path))
    try:
        value = json.loads(content.decode("utf-8"))
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise GreamError(f"{path}{line}: not valid JSON ({error}); download the file again") from None
    if not isinstance(value, dict) or not value:
        raise GreamError(f"{path}: a JSON object that maps {what} is expected, found {_shown(value)}")
    return value


def _read_sequence_lines(path: Path) -> dict[str, Any]:
    sequences: dict[str, Any] = {}
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise GreamError(f"{path}:{number}: not valid JSON ({error}); download the file again") from None
        if not isinstance(row, dict) or not isinstance(row.get("user"), str) or "items" not in row:
            raise GreamError(f'{path}:{number}: {{"user": TEXT, "items": [...]}} is expected, found {_shown(row)}')
        if row["user"] in sequences:
            raise GreamError(f"{path}:{number}: user '{row['user']}' has a line above; keep one of the two")
        if row.get("complete", True):
            sequences[row["user"]] = row["items"]
    if not sequences:
        raise GreamError(f"{path}: no user has a complete sequence; download the file again")
    return sequences


def _read_numbered(path: Path, what: str) -> dict[int, Any]:
    raw = _read_mapping(path, f"item numbers to {what}")
    if not all(str(number) in raw for number in range(len(raw))):
        wrong = next(key for key in raw if not key.isdecimal() or int(key) >= len(raw) or str(int(key)) != key)
        raise GreamError(f"{path}: items must be numbered 0 to {len(raw) - 1}, found '{wrong}'")
    return {number: raw[str(number)] for number in range(len(raw))}


def _read_item2id(path: Path) -> dict[int, dict[str, str]]:
    rows: dict[int, dict[str, str]] = {}
    for number, line in numbered_lines(path):
        asin, _, item = line.decode("utf-8", "replace").strip().partition("\t")
        if not asin or not item.isdecimal():
            raise GreamError(f"{path}:{number}: an ASIN, a tab and an item number are expected, found {_shown(asin)}")
        rows[int(item)] = {"asin": asin}
    if sorted(rows) != list(range(len(rows))):
        raise GreamError(f"{path}: items must be numbered 0 to {len(rows) - 1}, found {max(rows)}")
    return rows


def _text(path: Path, item: int, name: str, value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise GreamError(f"{path}: item {item} must have a text as '{name}', found {_shown(value)}")
    return value or ""


def _texts(path: Path, item: int, name: str, value: Any, parts: Callable[[str], Sequence[str]]) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], list):
        # Several category paths; the first is that of the item's own department.
        value = value[0]
    if isinstance(value, list):
        return [_text(path, item, name, part) for part in value]
    return list(parts(_text(path, item, name, value)))


def _paragraphs(text: str) -> Sequence[str]:
    """Paragraphs of a description, which some publish as the text of a Python list."""
    if text.startswith("[") and text.endswith("]"):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            # Written without escaping the quotes inside.
            return [text[1:-1].strip("'\" ")]
        if isinstance(value, list):
            return [part for part in value if isinstance(part, str)]
    return [text]


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
