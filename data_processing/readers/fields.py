"""Fields of metadata before they are clean: what means nothing, lists written as text, an item's rows made one."""

from __future__ import annotations

import ast
import json
import re
import warnings

import polars as pl

from .rows import RowLog

# What programs write where they have no value, in any case of letters.
MISSING_WORDS = frozenset(
    (
        *("", "nan", "none", "null", "nil", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nat", "undefined"),
        *("not available", "not applicable", "(null)", "[null]", "(none)", "\\n", "-", "--", "---", "?"),
        *("[]", "{}", "()", "[nan]", "[none]", "['']", '[""]'),
    )
)


def present(values: pl.Expr) -> pl.Expr:
    """Where a text says something: it is not null, not empty, and no word for a missing value."""
    return ~values.str.strip_chars().str.to_lowercase().is_in(list(MISSING_WORDS)).fill_null(True)


def is_missing(text: str) -> bool:
    """Whether a text is empty or a word for a missing value."""
    return text.strip().lower() in MISSING_WORDS


# A list as NumPy writes it, without commas.
_NUMPY_LIST = re.compile(r"""\[\s*(?:'[^']*'|"[^"]*")(?:\s+(?:'[^']*'|"[^"]*"))+\s*\]""")


def listed(text: str) -> list[str]:
    """The texts in a list that was written as text, by Python, JSON or NumPy; other text is a list of itself.

    Of several lists in a list, the first counts: an item's first category path.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    if _NUMPY_LIST.fullmatch(text):
        return [single or double for single, double in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    value: object = None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                # Of backslashes in a literal.
                warnings.simplefilter("ignore")
                value = parse(text)
            break
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    if not isinstance(value, list):
        # Written without escaping the quotes inside, or no list.
        return [text[1:-1].strip("'\" ") if text[1] in "'\"" else text]
    if value and isinstance(value[0], list):
        value = value[0]
    return [str(part) for part in value if isinstance(part, str | int | float)]


# The 2018 crawl took the page's scripts and styles for the title of some items.
SCRIPT = re.compile(r"\.getTime\(\)|\bvar \w+ ?=|\bfunction ?\w*\(|[.#][\w-]+ ?\{[^{}]*:[^{}]*\}")


def merged(metadata: pl.DataFrame) -> pl.DataFrame:
    """One row per item, in order of their first rows: of each field what says most of an item's rows.

    That is the first title and the first brand that hold text, the longest description and the deepest category path.

    Args:
        metadata: As `Source.read_metadata` returns it, an item in any number of rows.
    """
    if metadata["item_id"].is_unique().all():
        return metadata
    length = {
        "description": pl.col("description").list.join(" ", ignore_nulls=True).str.len_chars(),
        "category": pl.col("category").list.len(),
    }
    return metadata.group_by("item_id", maintain_order=True).agg(
        *(pl.col(name).filter(says_something(name)).first() for name in ("title", "brand")),
        *(
            # Of the longest, the first; of none, whatever the first row holds.
            pl.col(name).sort_by(size.fill_null(0) * says_something(name), descending=True, maintain_order=True).first()
            for name, size in length.items()
        ),
    )[metadata.columns]


def says_something(name: str) -> pl.Expr:
    """Where a field of metadata holds a text that `clean_items` would keep."""
    column = pl.col(name)
    if name in ("description", "category"):
        return column.list.eval(_kept(pl.element())).list.any().fill_null(False)
    return _kept(column)


def with_text(metadata: pl.DataFrame, log: RowLog) -> pl.DataFrame:
    """The items that have a text in any field, the others counted; all where rows of no use are refused."""
    if log.on_bad_row == "fail":
        return metadata
    said = metadata.filter(pl.any_horizontal(map(says_something, ("title", "description", "brand", "category"))))
    if len(said) < len(metadata):
        log.skipped["items without any text"] = len(metadata) - len(said)
    return said


def _kept(text: pl.Expr) -> pl.Expr:
    bare = text.str.replace_all(r"(?s)<!--.*?(?:-->|$)|</?[a-zA-Z][^<>]*>|&nbsp;|[\x00-\x1f]", "")
    return present(bare) & ~text.str.contains(SCRIPT.pattern).fill_null(False)
