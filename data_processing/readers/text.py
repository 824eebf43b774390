"""Text of raw dumps made clean: no markup, no token, nothing invisible, cut at a word, never emptied by a cut."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from gream.texts import Change, plain_text

from .fields import SCRIPT, is_missing, listed

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


def clean_text(text: str, changes: Counter[Change] | None = None) -> str:
    """Plain text (see `gream.texts`) without markup: HTML entities resolved, tags removed, white space folded.

    Dumps escape some texts twice, so this repeats until nothing changes: cleaning clean text changes nothing.

    Args:
        text: As a dump, or a teacher, has it.
        changes: Told what `plain_text` takes away.
    """
    while True:
        before = text
        # Control tokens go before tags, some of which they look like, so that they are counted.
        text = plain_text(_HIDDEN.sub(" ", text) if "<" in text else text, changes)
        if "<" not in text and "&" not in text:
            return text
        if "<" in text:
            text = " ".join(_OPEN_TAG.sub(" ", _TAG.sub(" ", text)).split())
        if "&" in text:
            text = html.unescape(text)
        if text == before:
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
    if boundary > 0:
        return text[:boundary]
    # Neither between a letter and its marks nor within an emoji of several parts.
    end = limit
    while end > 1 and (_CONTINUES.match(text, end) or text[end - 1] == "\u200d"):
        end -= 1
    return text[:end]


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
        without_text: How many items hold no text at all, so that their id is their title.
        brands_respelt: How many items have a brand that others spell otherwise, and more often.
        changes: What cleaning took away that no reader of the texts is to see.
    """

    frame: pl.DataFrame
    titles_replaced: int
    without_text: int
    brands_respelt: int
    changes: Counter[Change]

    def statistics(self) -> dict[str, int]:
        """Counts for ``statistics.json``."""
        empty = {
            "items_without_text": self.without_text,
            "items_without_description": int((self.frame["description"] == "").sum()),
            "items_without_brand": int((self.frame["brand"] == "").sum()),
            "items_without_category": int((self.frame["categories"].list.len() == 0).sum()),
        }
        removed = {f"{change.value.replace(' ', '_')}_removed": self.changes[change] for change in Change}
        return {"titles_replaced": self.titles_replaced, "brands_respelt": self.brands_respelt, **empty, **removed}

    def says(self) -> str:
        """The same in a few words, for a stage's line: what is not zero."""
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.statistics().items() if count)


def clean_items(metadata: pl.DataFrame) -> CleanItems:
    """Texts of items, free of markup and scripts; brands in one spelling each.

    A title without any text of its own is replaced by "CATEGORY by BRAND" (the most specific category), by the one of
    the two that is known, or by the item id. A description may stay empty.

    Args:
        metadata: As `Source.read_metadata` returns it.
    """
    changes: Counter[Change] = Counter()
    fields = list(metadata.select("item_id", "title", "description", "brand", "category").iter_rows())
    spelt = [_said(re.sub(r"^\s*by\s*\n", "", brand or ""), changes) for _, _, _, brand, _ in fields]
    brands = one_spelling(spelt)
    replaced = without_text = 0
    rows = []
    for number, ((item_id, title, description, _, category), brand) in enumerate(zip(fields, brands, strict=True)):
        categories = _category_path(_flat(category), changes)
        clean_title = cut_text(_without_script(_said(title or "", changes)), TITLE_CHARACTERS)
        paragraphs = [_without_script(_said(paragraph, changes)) for paragraph in _flat(description)]
        if not clean_title:
            known = (" by ".join(part for part in (*categories[-1:], brand) if part), clean_text(item_id))
            clean_title = next(filter(None, known), f"Item {number}")
            replaced += 1
            without_text += not (brand or categories or any(paragraphs))
        # Some rows repeat a paragraph word for word.
        text = " ".join(dict.fromkeys(paragraph for paragraph in paragraphs if paragraph))
        rows.append((item_id, clean_title, cut_text(text, DESCRIPTION_CHARACTERS), brand, categories))
    schema = {
        **dict.fromkeys(("item_id", "title", "description", "brand"), pl.String()),
        "categories": pl.List(pl.String()),
    }
    respelt = sum(before != after for before, after in zip(spelt, brands, strict=True))
    return CleanItems(pl.DataFrame(rows, schema=schema, orient="row"), replaced, without_text, respelt, changes)


def _said(text: str, changes: Counter[Change]) -> str:
    """Clean text; empty where it is a word for a missing value."""
    clean = clean_text(text, changes)
    return "" if is_missing(clean) else clean


def _flat(texts: Sequence[str | None] | None) -> list[str]:
    """The texts, with those in place of which a list was written as text."""
    return [part for text in texts or () for part in (listed(text) if text and "[" in text else [text or ""])]


def one_spelling(brands: Sequence[str]) -> list[str]:
    """Each brand as most spell it, where case, white space, width, a trade mark's sign and a last stop differ.

    Ties by the alphabet.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    keys = [_MARKS.sub("", unicodedata.normalize("NFKC", _MARKS.sub("", brand))).casefold() for brand in brands]
    keys = [" ".join(key.split()).rstrip(" .,;:") for key in keys]
    for key, brand in zip(keys, brands, strict=True):
        counts[key][brand] += 1
    chosen = {key: min(spelt, key=lambda brand: (-spelt[brand], brand)) for key, spelt in counts.items()}
    return [chosen[key] if key else brand for key, brand in zip(keys, brands, strict=True)]


def _category_path(category: Sequence[str], changes: Counter[Change]) -> list[str]:
    """Categories from general to specific, each once; ends where the dump goes on with selling points."""
    path: list[str] = []
    for raw in category:
        if raw.strip() and is_missing(raw):
            continue
        name = clean_text(raw, changes)
        if not name or len(name) > CATEGORY_CHARACTERS or name.endswith("."):
            break
        if name not in path:
            path.append(name)
    return path


_CONTINUES = re.compile(
    "[\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u200c\u200d\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]"
)
_MARKS = re.compile("[\u00ae\u2122\u00a9\u2120]|\\((?:R|TM|C)\\)")


def _without_script(text: str) -> str:
    return "" if SCRIPT.search(text) else text
