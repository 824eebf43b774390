"""Raw Amazon-2018 dumps, reviews and metadata: JSON lines, plain or gzip'd, read strictly and cleaned as text.

Polars reads the files. What it rejects, or lets pass although a needed value is missing, is read again line by line in
Python, only to say which line it is. Metadata whose fields vary in type is taken from that second reading.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import polars as pl
from gream.errors import GreamError

# Room for what a title, a description and a review say; pages of text help neither an encoder nor a prompt.
TITLE_CHARACTERS = 200
DESCRIPTION_CHARACTERS = 1000
REVIEW_CHARACTERS = 500
# No category name of the 2018 dump is longer; what is longer is a selling point that slipped into the path.
CATEGORY_CHARACTERS = 50
# Seconds of the year 5138. A larger time is in milliseconds, as in the 2023 dump.
_LATEST_SECOND = 10**11

_GZIP_MAGIC = b"\x1f\x8b"
_ID = r"[^\s\"\[\]{}]+"

_REVIEW_IDS = {"reviewerID": pl.String(), "asin": pl.String(), "unixReviewTime": pl.Int64()}
_REVIEW_TEXTS = {"summary": pl.String(), "reviewText": pl.String()}
_METADATA = {
    "asin": pl.String(),
    "title": pl.String(),
    "description": pl.List(pl.String()),
    "brand": pl.String(),
    "category": pl.List(pl.String()),
}


def read_reviews(path: Path) -> pl.DataFrame:
    """Who reviewed what and when.

    Args:
        path: JSON lines with reviewerID, asin and unixReviewTime, plain or gzip'd.

    Returns:
        row (uint32, order of input), user_id, item_id (strings), timestamp (int64, seconds).

    Raises:
        GreamError: Missing, empty, damaged or truncated file, a line that is not JSON or lacks a needed value; names
            file, line and remedy.
    """
    frame = _collect(path, _REVIEW_IDS, lambda lines: lines.with_row_index("row"))
    # Polars turns what is no string into one, and an absent field into null.
    valid = (
        pl.col("reviewerID", "asin").str.contains(f"^{_ID}$").fill_null(False),
        pl.col("unixReviewTime").is_between(0, _LATEST_SECOND).fill_null(False),
    )
    if frame.is_empty() or not frame.select(pl.all_horizontal(*valid).all()).item():
        _raise_first_problem(path, _check_review, "a value is missing")
    return frame.rename({"reviewerID": "user_id", "asin": "item_id", "unixReviewTime": "timestamp"})


def read_review_texts(path: Path, rows: pl.Series) -> pl.DataFrame:
    """Cleaned texts of chosen reviews; the others are never held in memory.

    Args:
        path: The file that `read_reviews` read.
        rows: ``row`` of the reviews wanted, distinct.

    Returns:
        row and text (summary, then review), in order of ``row``; reviews without any text are left out.

    Raises:
        GreamError: See `read_reviews`.
    """
    wanted = rows.alias("row").to_frame().lazy()
    frame = _collect(path, _REVIEW_TEXTS, lambda lines: lines.with_row_index("row").join(wanted, on="row", how="semi"))
    pairs = frame.select("summary", "reviewText").iter_rows()
    texts = [_review_text(summary or "", text or "") for summary, text in pairs]
    return frame.select("row", pl.Series("text", texts, dtype=pl.String)).filter(pl.col("text") != "").sort("row")


def _review_text(summary: str, text: str) -> str:
    summary, text = clean_text(summary), clean_text(text)
    if summary and text:
        summary += " " if summary[-1] in ".!?" else ". "
    return cut_text(summary + text, REVIEW_CHARACTERS)


def read_metadata(path: Path) -> pl.DataFrame:
    """What the dump says about its items, as it says it; `clean_items` makes texts of it.

    Args:
        path: JSON lines with asin and, where known, title, description, brand and category, plain or gzip'd.

    Returns:
        item_id, title, description (list), brand, category (list); the first row of each item, in order of input.

    Raises:
        GreamError: Missing, empty, damaged or truncated file, a line that is not JSON, has no asin, or a description
            or category that is neither a text nor a list; names file, line and remedy.
    """
    try:
        frame = _read_polars(path, _METADATA, lambda lines: lines)
    except (OSError, pl.exceptions.PolarsError):
        frame = _read_metadata_lines(path)
    valid = pl.col("asin").str.contains(f"^{_ID}$").fill_null(False)
    if frame.is_empty() or not frame.select(valid.all()).item():
        _raise_first_problem(path, _check_metadata, "a value is missing")
    return frame.rename({"asin": "item_id"}).unique("item_id", keep="first", maintain_order=True)


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
        metadata: As `read_metadata` returns it.
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


# The 2018 crawl took the page's scripts and styles for the title of some items.
_SCRIPT = re.compile(r"\.getTime\(\)|\bvar \w+ ?=|\bfunction ?\w*\(|[.#][\w-]+ ?\{[^{}]*:[^{}]*\}")


def _without_script(text: str) -> str:
    return "" if _SCRIPT.search(text) else text


def _collect(
    path: Path, schema: Mapping[str, pl.DataType], plan: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> pl.DataFrame:
    try:
        return _read_polars(path, schema, plan)
    except (OSError, pl.exceptions.PolarsError) as error:
        _raise_first_problem(path, _check_review, str(error))


def _read_polars(
    path: Path, schema: Mapping[str, pl.DataType], plan: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> pl.DataFrame:
    # An open file and not its name: in a name, polars takes brackets and stars for patterns.
    with _open(path) as stream:
        return plan(pl.scan_ndjson(stream, schema=schema)).collect()


def _open(path: Path) -> IO[bytes]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise GreamError(f"{path}: cannot be read ({error.strerror}); name an existing raw dump") from None
    start = stream.read(len(_GZIP_MAGIC))
    stream.seek(0)
    if not start:
        stream.close()
        raise GreamError(f"{path}: the file is empty; download it again")
    if path.suffix == ".gz" and start != _GZIP_MAGIC:
        stream.close()
        raise GreamError(
            f"{path}: named .gz, but it is no gzip file; download it again, or rename it if it is plain text"
        )
    return stream


def _raise_first_problem(path: Path, check: Callable[[dict[str, Any]], str | None], polars_says: str) -> NoReturn:
    """Raise what is wrong with the first line that something is wrong with."""
    empty = True
    for number, row in _parsed_lines(path):
        empty = False
        problem = check(row)
        if problem:
            raise GreamError(f"{path}:{number}: {problem}")
    if empty:
        raise GreamError(f"{path}: holds no line of JSON; download it again")
    raise GreamError(f"{path}: cannot be read ({' '.join(polars_says.split())}); download it again")


def _parsed_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and content of each line that is not blank."""
    number = 0
    with _open(path) as raw:
        zipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        raw.seek(0)
        lines: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parse(path, number, line)
        except (EOFError, OSError, zlib.error) as error:
            raise GreamError(
                f"{path}:{number + 1}: the gzip stream is cut or damaged here ({error}); download the file again"
            ) from None


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_reject_constant)
    except ValueError as error:
        if line.lstrip().startswith((b"{'", b"{u'")):
            remedy = "this is a Python literal, as in the 2014 dumps; take the 2018 dump, whose lines are JSON"
        elif not line.endswith(b"\n"):
            remedy = "the file ends inside this line; download it again"
        else:
            remedy = "correct the line or delete it"
        raise GreamError(f"{path}:{number}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(row, dict):
        raise GreamError(f"{path}:{number}: a JSON object is expected, found {_shown(row)}; delete the line")
    return row


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _check_review(row: dict[str, Any]) -> str | None:
    problem = _check_id(row, "reviewerID", "review") or _check_id(row, "asin", "review")
    if problem:
        return problem
    time = row.get("unixReviewTime")
    if not isinstance(time, int) or isinstance(time, bool) or not 0 <= time <= _LATEST_SECOND:
        return f"'unixReviewTime' must be whole seconds since 1970, found {_shown(time)}; correct the line or delete it"
    return None


def _check_metadata(row: dict[str, Any]) -> str | None:
    return _check_id(row, "asin", "item")


def _check_id(row: dict[str, Any], name: str, kind: str) -> str | None:
    value = row.get(name)
    if value is None:
        return f"'{name}' is missing, so this is no {kind} of the 2018 dump; name the right file, or delete the line"
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    if not isinstance(value, str) or not re.fullmatch(_ID, value):
        return f"'{name}' must be an id without spaces, found {_shown(value)}; correct the line or delete it"
    return None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _read_metadata_lines(path: Path) -> pl.DataFrame:
    """Metadata with fields of mixed types, in the form in which polars reads the regular ones."""
    columns: dict[str, list[Any]] = {name: [] for name in _METADATA}
    for number, row in _parsed_lines(path):
        problem = _check_metadata(row)
        if problem:
            raise GreamError(f"{path}:{number}: {problem}")
        for name, dtype in _METADATA.items():
            value = row.get(name)
            if not isinstance(dtype, pl.List):
                columns[name].append(_as_text(value))
            elif value is None or isinstance(value, list):
                columns[name].append(value and [_as_text(part) for part in value])
            elif isinstance(value, str):
                columns[name].append([_as_text(value)])
            else:
                raise GreamError(
                    f"{path}:{number}: '{name}' must be a list of texts, found {_shown(value)}; "
                    "correct the line or delete it"
                )
    return pl.DataFrame(columns, schema=_METADATA)


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    # A lone surrogate is legal in JSON and not in UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")
