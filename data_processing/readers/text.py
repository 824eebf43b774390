"""Text of raw dumps made clean: no markup, no control characters, cut at a word, never emptied by a cut."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

# What readers return of items, and `clean_items` takes.
METADATA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "description": pl.List(pl.String()),
    "brand": pl.String(),
    "category": pl.List(pl.String()),
}

# Room for what a title, a description and a review say; pages of text help neither an encoder nor a prompt.
TITLE_CHARACTERS = 200
DESCRIPTION_CHARACTERS = 1000
REVIEW_CHARACTERS = 500
# No category name of the 2018 dump is longer; what is longer is a selling point that slipped into the path.
CATEGORY_CHARACTERS = 50

_HIDDEN = re.compile(r"<!--.*?(?:-->|$)|<(script|style)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
# A tag that the end of the text cut off; with an attribute, so that "a <b" stays what it says.
_OPEN_TAG = re.compile(r"<[a-zA-Z]\w*\s+[\w-]+\s*=[^<>]*$|</\w*$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean_text(text: str) -> str:
    """Text without markup: HTML entities resolved, tags and control characters removed, white space folded.

    Dumps escape some texts twice, so this repeats until nothing changes: cleaning clean text changes nothing.
    """
    while True:
        before = text
        if "<" in text:
            for pattern in (_HIDDEN, _TAG, _OPEN_TAG):
                text = pattern.sub(" ", text)
        if "&" in text:
            text = html.unescape(text)
        if not text.isprintable():
            text = _CONTROL.sub(" ", text)
        text = " ".join(text.split())
        if text == before or ("<" not in text and "&" not in text):
            return text


def cut_text(text: str, limit: int) -> str:
    """``text`` within ``limit`` characters, cut between words; inside a word only where the first is too long.

    Args:
        text: Clean text.
        limit: At least 1.
    """
    if len(text) <= limit:
        return text
    boundary = text.rfind(" ", 0, limit + 1)
    return text[:boundary] if boundary > 0 else text[:limit]


def review_text(summary: str, text: str) -> str:
    """Summary and text of a review in one line of clean text; empty where both are."""
    summary, text = clean_text(summary), clean_text(text)
    if summary and text:
        summary += " " if summary[-1] in ".!?" else ". "
    return cut_text(summary + text, REVIEW_CHARACTERS)


@dataclass(frozen=True)
class CleanItems:
    """Items as text.

    Attributes:
        frame: item_id, title, description, brand (strings) and categories (list), none of them null.
        titles_replaced: How many titles held no text and were replaced.
    """

    frame: pl.DataFrame
    titles_replaced: int


def clean_items(metadata: pl.DataFrame) -> CleanItems:
    """Texts of items, free of markup and scripts.

    A title without any text of its own is replaced by "CATEGORY by BRAND" (the most specific category), by the one of
    the two that is known, or by the item id. A description may stay empty.

    Args:
        metadata: As `Source.read_metadata` returns it.
    """
    replaced = 0
    rows = []
    for item_id, title, description, brand, category in metadata.select(
        "item_id", "title", "description", "brand", "category"
    ).iter_rows():
        brand = clean_text(re.sub(r"^\s*by\s*\n", "", brand or ""))
        categories = _category_path(category or [])
        clean_title = cut_text(_without_script(clean_text(title or "")), TITLE_CHARACTERS)
        if not clean_title:
            clean_title = " by ".join(part for part in (*categories[-1:], brand) if part) or item_id
            replaced += 1
        paragraphs = [_without_script(clean_text(paragraph or "")) for paragraph in description or []]
        # Some rows repeat a paragraph word for word.
        text = " ".join(dict.fromkeys(paragraph for paragraph in paragraphs if paragraph))
        rows.append((item_id, clean_title, cut_text(text, DESCRIPTION_CHARACTERS), brand, categories))
    schema = {
        **dict.fromkeys(("item_id", "title", "description", "brand"), pl.String()),
        "categories": pl.List(pl.String()),
    }
    return CleanItems(pl.DataFrame(rows, schema=schema, orient="row"), replaced)


def _category_path(category: Sequence[str | None]) -> list[str]:
    """Categories from general to specific, each once; ends where the dump goes on with selling points."""
    path: list[str] = []
    for raw in category:
        name = clean_text(raw or "")
        if not name or len(name) > CATEGORY_CHARACTERS or name.endswith("."):
            break
        if name not in path:
            path.append(name)
    return path


# The 2018 crawl took the page's scripts and styles for the title of some items.
_SCRIPT = re.compile(r"\.getTime\(\)|\bvar \w+ ?=|\bfunction ?\w*\(|[.#][\w-]+ ?\{[^{}]*:[^{}]*\}")


def _without_script(text: str) -> str:
    return "" if _SCRIPT.search(text) else text
