"""Names of the formats that raw data comes in, and how a file shows which one it has."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, Literal

from gream.config import Config
from gream.errors import GreamError
from pydantic import field_validator

from .files import first_bytes, plain_name
from .times import Unit, check_time_format

Format = Literal["amazon-2014", "amazon-2018", "amazon-2023", "movielens", "table", "published"]

# Enough for the first line of any dump; metadata lines of the Amazon crawls stay below it.
_HEAD = 1 << 16


class Columns(Config):
    """Names of the columns of a CSV or Parquet file (format ``table``).

    Attributes:
        user: Users, in the interaction table.
        item: Items, in the interaction table.
        time: Times, in the interaction table: numbers, or dates and times, in UTC where they name no zone.
        time_unit: Unit of numbers since 1970; by default told from the size of most of them.
        time_format: How texts write times, such as ``%d.%m.%Y %H:%M``; by default ISO 8601, or the order of day and
            month that the whole column allows.
        text: Texts of reviews, in the interaction table.
        item_id: Item ids, in the item table.
        title: Titles, in the item table.
        description: Descriptions, in the item table.
        brand: Brands, in the item table.
        categories: Categories from general to specific, in the item table: a list, or a text.
        category_separator: Separator of categories in a text.
        delimiter: Separator of values in a CSV line, one to eight characters; by default told from the first line. With
            several characters, quotes are a part of the values.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    time_unit: Unit | None = None
    time_format: str | None = None
    text: str | None = None
    item_id: str = "item_id"
    title: str = "title"
    description: str | None = None
    brand: str | None = None
    categories: str | None = None
    category_separator: str = "|"
    delimiter: str | None = None

    @field_validator("time_format")
    @classmethod
    def _can_be_read_back(cls, time_format: str | None) -> str | None:
        return None if time_format is None else check_time_format(time_format)

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, delimiter: str | None) -> str | None:
        # A shell hands \t over as it is typed.
        delimiter = "\t" if delimiter == r"\t" else delimiter
        if delimiter is not None and (not delimiter or set(delimiter) & set('"\r\n') or len(delimiter) > 8):
            raise ValueError("one to eight characters are needed, none of them a quote or a line end, such as ';'")
        return delimiter


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
            + (", or have its columns found: gream shop ORDERS PRODUCTS" if possible[0] == "table" else "")
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
    if re.match(rb'\s*\{\s*"\d+"\s*:\s*[\[{]', head):
        return ("published",)
    if line.startswith("{"):
        return _json_formats(line)
    if re.match(r"\d+::|\d+\t\d+\t\d+\t\d+$|\d+\|[^|]*\|[^|]*\|", line):
        return ("movielens",)
    return ()


def _json_formats(line: str) -> tuple[Format, ...]:
    row: Any = None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ()
        return ("amazon-2014",) if isinstance(row, dict) and "asin" in row else ()
    if "parent_asin" in row:
        return ("amazon-2023",)
    if "reviewerID" in row:
        return ("amazon-2018", "amazon-2014")
    if "asin" in row:
        nested = isinstance(row.get("categories"), list)
        return ("amazon-2014",) if nested else ("amazon-2018",) if "category" in row else ("amazon-2018", "amazon-2014")
    return ()
