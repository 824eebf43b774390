"""Names of the formats that raw data comes in, and how a file shows which one it has."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, Literal

from gream.config import Config
from gream.errors import GreamError

from .files import first_bytes, plain_name

Format = Literal["amazon-2014", "amazon-2018", "amazon-2023", "movielens", "table", "published"]

# Enough for the first line of any dump; metadata lines of the Amazon crawls stay below it.
_HEAD = 1 << 16


class Columns(Config):
    """Names of the columns of a CSV or Parquet file (format ``table``).

    Attributes:
        user: Column of the interaction table.
        item: Column of the interaction table.
        time: Column of the interaction table: whole numbers, or dates and times in UTC.
        time_unit: What the whole numbers count since 1970: seconds or milliseconds.
        text: Column of the interaction table with the review's text.
        item_id: Column of the item table.
        title: Column of the item table.
        description: Column of the item table.
        brand: Column of the item table.
        categories: Column of the item table, from general to specific: a list, or a text.
        category_separator: Stands between categories in a text.
        delimiter: Stands between the values of a CSV line.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    time_unit: Literal["s", "ms"] = "s"
    text: str | None = None
    item_id: str = "item_id"
    title: str = "title"
    description: str | None = None
    brand: str | None = None
    categories: str | None = None
    category_separator: str = "|"
    delimiter: str = ","


def check_format(path: Path, declared: Format) -> None:
    """Refuse a file that shows at its start that it has another format.

    Raises:
        GreamError: The file is missing or empty, or has another format; names the right one.
    """
    possible = _possible_formats(path)
    if possible and declared not in possible:
        raise GreamError(
            f"{path}: this file is not in the format '{declared}'; it looks like '{possible[0]}': "
            f"set interactions.format={possible[0]}"
        )


def _possible_formats(path: Path) -> tuple[Format, ...]:
    """Formats that the start of the file fits, the likeliest first; none where it says nothing."""
    name = plain_name(path)
    head = first_bytes(path, _HEAD)
    if head.startswith(b"PAR1"):
        return ("table",)
    if name.endswith((".inter.json", ".sequences.jsonl", ".item.json", ".item2id")):
        return ("published",)
    if name.endswith((".csv", ".tsv")):
        return ("movielens", "table") if re.match(rb"(userId,)?movieId,", head) else ("table",)
    line = head.lstrip().split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    if line.startswith("{"):
        return _json_formats(line)
    if re.match(r"\d+::|\d+\t\d+\t\d+\t\d+$|\d+\|[^|]*\|[^|]*\|", line):
        return ("movielens",)
    return ()


def _json_formats(line: str) -> tuple[Format, ...]:
    row: Any = None
    try:
        row = json.loads(line)
    except ValueError:
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ("published",) if re.match(r'\{\s*("\d+"\s*:\s*[\[{]|$)', line) else ()
        return ("amazon-2014",) if isinstance(row, dict) and "asin" in row else ()
    if "parent_asin" in row:
        return ("amazon-2023",)
    if "reviewerID" in row:
        return ("amazon-2018", "amazon-2014")
    if "asin" in row:
        nested = isinstance(row.get("categories"), list)
        return ("amazon-2014",) if nested else ("amazon-2018",) if "category" in row else ("amazon-2018", "amazon-2014")
    if row and all(key.isdigit() and isinstance(value, list | dict) for key, value in row.items()):
        return ("published",)
    return ()
