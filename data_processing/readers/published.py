"""Reads the layout in which LC-Rec, LETTER and others publish: ``NAME.inter.json`` and ``NAME.item.json``.

The first maps each user to item numbers in order of time, the second each item number to its texts; plain, gzip'd or
zstd'd. ``NAME.sequences.jsonl`` may stand for the first: a user to a line. ``NAME.index.json``, each item number to the
tokens of its semantic id, is read by `gream.semantic_ids.published`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from gream.errors import GreamError
from gream.files import DoubledKeyError, once_each

from .fields import is_missing, listed
from .files import bounded, numbered_lines, plain_name, shown
from .text import METADATA

# LC-Rec joins category names by a comma alone; a comma inside a name has a space behind it.
_CATEGORY_SEPARATOR = re.compile(r",(?! )")


def read_published_sequences(path: Path) -> dict[str, list[int]]:
    """Items of each user in order of time, users in order of the file.

    Args:
        path: ``NAME.inter.json``, or ``NAME.sequences.jsonl`` with a ``user`` and ``items`` in every line. A user whose
            line says ``"complete": false`` is left out: neighbours in a sequence with gaps were none in time.

    Raises:
        GreamError: The file cannot be read, names a user twice, or maps one to something other than item numbers.
    """
    if plain_name(path).endswith(".sequences.jsonl"):
        sequences = _read_sequence_lines(path)
    else:
        sequences = _read_mapping(path, "users to their items")
    read: dict[str, list[int]] = {}
    for user, items in sequences.items():
        numbers = [number for item in items if (number := _number(item)) is not None] if isinstance(items, list) else []
        if not isinstance(items, list) or len(numbers) < len(items):
            raise GreamError(
                f"{path}: user '{bounded(_utf8(user), 40)}' must have a list of item numbers, found {shown(items)}; "
                "correct it, or make the file again"
            )
        read[_utf8(user)] = numbers
    if len(read) < len(sequences):
        raise GreamError(f"{path}: two users differ in lone surrogates alone; name them in UTF-8")
    return read


def read_published_items(path: Path) -> pl.DataFrame:
    """What is published about each item, item 0 first; `clean_items` makes texts of it.

    Args:
        path: ``NAME.item.json``, or the two tab-separated columns of ``NAME.item2id``, which hold no texts.

    Returns:
        item_id (the ASIN where it is given, else the number), title, description (list), brand, category (list).

    Raises:
        GreamError: The file cannot be read, its numbers are not 0 to n-1, each once, or a field is neither a text nor
            a list.
    """
    rows = _read_item2id(path) if plain_name(path).endswith(".item2id") else _read_numbered(path, "their texts")
    columns: dict[str, list[Any]] = {name: [] for name in METADATA}
    for item in range(len(rows)):
        row = rows[item]
        if not isinstance(row, Mapping):
            raise GreamError(
                f"{path}: item {item} must have named texts, found {shown(row)}; correct it, or make the file again"
            )
        asin = _text(path, item, "asin", row.get("asin"))
        columns["item_id"].append(str(item) if is_missing(asin) else asin)
        # Sports is published with a shortened title only.
        title = _text(path, item, "title", row.get("title"))
        columns["title"].append(_text(path, item, "textual_id", row.get("textual_id")) if is_missing(title) else title)
        columns["description"].append(_texts(path, item, "description", row.get("description"), listed))
        columns["brand"].append(_text(path, item, "brand", row.get("brand")))
        columns["category"].append(_texts(path, item, "categories", row.get("categories"), _category_names))
    frame = pl.DataFrame(columns, schema=METADATA)
    if frame["item_id"].n_unique() < len(frame):
        raise GreamError(f"{path}: two items have the same ASIN; download the file again")
    return frame


def _read_mapping(path: Path, what: str) -> dict[str, Any]:
    content = b"".join(line for _, line in numbered_lines(path))
    value = _parsed(path, content, None)
    if not isinstance(value, dict) or not value:
        raise GreamError(
            f"{path}: a JSON object that maps {what} is expected, found {shown(value)}; name the right file"
        )
    return value


def _parsed(path: Path, content: bytes, line: int | None) -> object:
    """JSON; ``line`` is where it stands, None for the whole file."""
    place = path if line is None else f"{path}:{line}"
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=once_each)
    except DoubledKeyError as error:
        raise GreamError(
            f"{place}: the key '{bounded(_utf8(error.key), 40)}' stands twice in an object; keep one"
        ) from None
    except (ValueError, RecursionError) as error:
        says = "nested too deeply" if isinstance(error, RecursionError) else bounded(str(error))
        if line is None and isinstance(error, json.JSONDecodeError):
            place = f"{path}:{error.lineno}"
        raise GreamError(f"{place}: not valid JSON ({says}); download the file again") from None


def _read_sequence_lines(path: Path) -> dict[str, Any]:
    sequences: dict[str, Any] = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        row = _parsed(path, line, number)
        if not isinstance(row, dict) or not isinstance(row.get("user"), str) or "items" not in row:
            raise GreamError(f'{path}:{number}: {{"user": TEXT, "items": [...]}} is expected, found {shown(row)}')
        if row["user"] in sequences:
            raise GreamError(
                f"{path}:{number}: user '{bounded(_utf8(row['user']), 40)}' has a line above; keep one of the two"
            )
        if row.get("complete", True):
            sequences[row["user"]] = row["items"]
    if not sequences:
        raise GreamError(f"{path}: no user has a complete sequence; download the file again")
    return sequences


def _read_numbered(path: Path, what: str) -> dict[int, Any]:
    raw = _read_mapping(path, f"item numbers to {what}")
    if not all(str(number) in raw for number in range(len(raw))):
        wanted = {str(number) for number in range(len(raw))}
        wrong = next(key for key in raw if key not in wanted)
        raise GreamError(
            f"{path}: items must be numbered 0 to {len(raw) - 1}, found '{bounded(_utf8(wrong), 40)}'; number them so"
        )
    return {number: raw[str(number)] for number in range(len(raw))}


def _read_item2id(path: Path) -> dict[int, dict[str, str]]:
    rows: dict[int, dict[str, str]] = {}
    for number, line in numbered_lines(path):
        asin, _, text = line.decode("utf-8", "replace").strip().partition("\t")
        item = _number(text)
        if not asin or item is None:
            raise GreamError(
                f"{path}:{number}: an ASIN, a tab and an item number are expected, found {shown(f'{asin} {text}')}"
            )
        if item in rows:
            raise GreamError(f"{path}:{number}: item {item} has a line above; give each item a number of its own")
        rows[item] = {"asin": asin}
    if sorted(rows) != list(range(len(rows))):
        raise GreamError(f"{path}: items must be numbered 0 to {len(rows) - 1}, found {max(rows, default='none')}")
    return rows


def _number(value: object) -> int | None:
    """An item number, also where a program wrote it as text or as a fraction; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and (digits := re.fullmatch(r"\s*([0-9]{1,18})(?:\.0+)?\s*", value)):
        value = int(digits[1])
    return value if type(value) is int and 0 <= value < 1 << 62 else None


def _utf8(text: str) -> str:
    """Without lone surrogates, which are legal in JSON and not in UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(path: Path, item: int, name: str, value: object) -> str:
    """A text, or a number as one; empty where there is none."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise GreamError(
            f"{path}: item {item} must have a text as '{name}', found {shown(value)}; correct it, or make it again"
        )
    return _utf8(str(value))


def _texts(path: Path, item: int, name: str, value: Any, parts: Callable[[str], Sequence[str]]) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], list):
        # Several category paths; the first is that of the item's own department.
        value = value[0]
    if isinstance(value, list):
        return [_text(path, item, name, part) for part in value]
    return list(parts(_text(path, item, name, value)))


def _category_names(text: str) -> list[str]:
    return listed(text) if text.startswith("[") else _CATEGORY_SEPARATOR.split(text)
