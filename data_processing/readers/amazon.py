"""Amazon review dumps of 2014, 2018 and 2023: JSON lines, and the Python literals of the metadata of 2014."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from gream.errors import GreamError

from .files import numbered_lines, open_raw
from .formats import Format
from .text import review_text

# Seconds of the year 5138. A larger time is in milliseconds, as in the 2023 dump.
LATEST_SECOND = 10**11

_ID = r"[^\s\"\[\]{}]+"
_TEXT, _LIST = pl.String(), pl.List(pl.String())


@dataclass(frozen=True)
class AmazonDump:
    """One generation of the dumps: what it calls things.

    Attributes:
        year: Of its publication.
        user: Field of a review.
        item: Field of a review and of an item.
        time: Field of a review.
        unit: Of ``time``, as a part of a second.
        summary: Field of a review.
        text: Field of a review.
        metadata: Fields of an item that are read, and their types.
        brand: Field of an item.
        category: Field of an item.
    """

    year: int
    user: str
    item: str
    time: str
    unit: int
    summary: str
    text: str
    metadata: dict[str, pl.DataType]
    brand: str
    category: str

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """See `Source.read_reviews`."""
        schema = {self.user: _TEXT, self.item: _TEXT, self.time: pl.Int64()}
        frame = self._collect(path, schema, lambda scan: scan)
        # Polars turns what is no string into one, and an absent field into null.
        valid = frame.select(
            pl.col(self.user, self.item).unique().str.contains(f"^{_ID}$").fill_null(False).all(),
            pl.col(self.time).is_between(*self._times()).fill_null(False).all(),
        )
        if frame.is_empty() or not all(valid.row(0)):
            self._raise_first_problem(path, "a value is missing")
        return frame.select(
            "row",
            pl.col(self.user).alias("user_id"),
            pl.col(self.item).alias("item_id"),
            (pl.col(self.time) // self.unit if self.unit > 1 else pl.col(self.time)).alias("timestamp"),
        )

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """See `Source.read_review_texts`."""
        wanted = rows.alias("row").to_frame().lazy()
        kept = {"row": pl.UInt32(), "text": _TEXT}
        frame = self._collect(
            path,
            {self.summary: _TEXT, self.text: _TEXT},
            # Raw texts are many times what is kept of them, so they are cleaned as they come.
            lambda scan: scan.join(wanted, on="row", how="semi").map_batches(
                self._cleaned, schema=kept, streamable=True
            ),
        )
        return frame.sort("row")

    def _cleaned(self, frame: pl.DataFrame) -> pl.DataFrame:
        pairs = frame.select(self.summary, self.text).iter_rows()
        texts = pl.Series("text", [review_text(a or "", b or "") for a, b in pairs], dtype=pl.String)
        return frame.select("row", texts).filter(pl.col("text") != "")

    def read_metadata(self, path: Path) -> pl.DataFrame:
        """See `Source.read_metadata`."""
        if self.year == 2014:
            frame = self._read_metadata_lines(path, _literal)
        else:
            try:
                with open_raw(path) as stream:
                    frame = pl.scan_ndjson(stream, schema=self.metadata).collect(engine="streaming")
            except (OSError, pl.exceptions.PolarsError):
                # Fields of mixed types, or something wrong, which this names.
                frame = self._read_metadata_lines(path, _json)
        valid = pl.col(self.item).str.contains(f"^{_ID}$").fill_null(False)
        if frame.is_empty() or not frame.select(valid.all()).item():
            self._raise_first_problem(path, "a value is missing", metadata=True)
        description = pl.col("description")
        if "features" in self.metadata:
            # Most items of 2023 are described by their features alone.
            description = pl.concat_list(pl.col("description", "features").fill_null([]))
        return frame.select(
            pl.col(self.item).alias("item_id"),
            "title",
            description,
            pl.col(self.brand).alias("brand"),
            pl.col(self.category).alias("category"),
        ).unique("item_id", keep="first", maintain_order=True)

    def _collect(
        self, path: Path, schema: dict[str, pl.DataType], plan: Callable[[pl.LazyFrame], pl.LazyFrame]
    ) -> pl.DataFrame:
        # An open file and not its name: in a name, polars takes brackets and stars for patterns.
        with open_raw(path) as stream:
            try:
                return plan(pl.scan_ndjson(stream, schema=schema, row_index_name="row")).collect(engine="streaming")
            except (OSError, pl.exceptions.PolarsError) as error:
                self._raise_first_problem(path, str(error))

    def _times(self) -> tuple[int, int]:
        """Smallest and largest ``time``; where the unit is a millisecond, seconds stay below it."""
        return (LATEST_SECOND, LATEST_SECOND * self.unit) if self.unit > 1 else (0, LATEST_SECOND)

    def _raise_first_problem(self, path: Path, polars_says: str, *, metadata: bool = False) -> NoReturn:
        """Raise what is wrong with the first line that something is wrong with."""
        empty = True
        parse = _literal if metadata and self.year == 2014 else _json
        for number, row in _rows(path, parse):
            empty = False
            problem = self._check_id(row, self.item, "item") if metadata else self._check_review(row)
            if problem:
                raise GreamError(f"{path}:{number}: {problem}")
        if empty:
            raise GreamError(f"{path}: holds no line of JSON; download it again")
        raise GreamError(f"{path}: cannot be read ({' '.join(polars_says.split())}); download it again")

    def _check_review(self, row: dict[str, Any]) -> str | None:
        problem = self._check_id(row, self.user, "review") or self._check_id(row, self.item, "review")
        if problem:
            return problem
        time = row.get(self.time)
        low, high = self._times()
        if not isinstance(time, int) or isinstance(time, bool) or not low <= time <= high:
            unit = "seconds" if self.unit == 1 else "milliseconds"
            return f"'{self.time}' must be whole {unit} since 1970, found {_shown(time)}; correct the line or delete it"
        return None

    def _check_id(self, row: dict[str, Any], name: str, kind: str) -> str | None:
        value = row.get(name)
        if value is None:
            return (
                f"'{name}' is missing, so this is no {kind} of the {self.year} dump; name the right file, "
                "or delete the line"
            )
        if isinstance(value, int) and not isinstance(value, bool):
            return None
        if not isinstance(value, str) or not re.fullmatch(_ID, value):
            return f"'{name}' must be an id without spaces, found {_shown(value)}; correct the line or delete it"
        return None

    def _read_metadata_lines(self, path: Path, parse: Callable[[Path, int, bytes], object]) -> pl.DataFrame:
        """Metadata with fields of mixed types, in the form in which polars reads the regular ones."""
        columns: dict[str, list[Any]] = {name: [] for name in self.metadata}
        for number, row in _rows(path, parse):
            problem = self._check_id(row, self.item, "item")
            if problem:
                raise GreamError(f"{path}:{number}: {problem}")
            for name, dtype in self.metadata.items():
                value = row.get(name)
                if not isinstance(dtype, pl.List):
                    columns[name].append(_as_text(value))
                elif value is None or isinstance(value, list):
                    columns[name].append(value and _texts(value))
                elif isinstance(value, str):
                    columns[name].append([_as_text(value)])
                else:
                    raise GreamError(
                        f"{path}:{number}: '{name}' must be a list of texts, found {_shown(value)}; "
                        "correct the line or delete it"
                    )
        return pl.DataFrame(columns, schema=self.metadata)


_OLD = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "summary": "summary", "text": "reviewText"}
_ITEM: dict[str, pl.DataType] = {"asin": _TEXT, "title": _TEXT, "description": _LIST}
AMAZON: dict[Format, AmazonDump] = {
    "amazon-2014": AmazonDump(
        2014,
        **_OLD,
        unit=1,
        metadata={**_ITEM, "brand": _TEXT, "categories": _LIST},
        brand="brand",
        category="categories",
    ),
    "amazon-2018": AmazonDump(
        2018, **_OLD, unit=1, metadata={**_ITEM, "brand": _TEXT, "category": _LIST}, brand="brand", category="category"
    ),
    "amazon-2023": AmazonDump(
        2023,
        user="user_id",
        item="parent_asin",
        time="timestamp",
        unit=1000,
        summary="title",
        text="text",
        metadata={
            "parent_asin": _TEXT,
            "title": _TEXT,
            "description": _LIST,
            "features": _LIST,
            "store": _TEXT,
            "categories": _LIST,
        },
        brand="store",
        category="categories",
    ),
}


def _rows(path: Path, parse: Callable[[Path, int, bytes], object]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and content of each line that is not blank."""
    for number, line in numbered_lines(path):
        if line.strip():
            row = parse(path, number, line)
            if not isinstance(row, dict):
                raise GreamError(f"{path}:{number}: a JSON object is expected, found {_shown(row)}; delete the line")
            yield number, row


def _json(path: Path, number: int, line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_reject_constant)
    except ValueError as error:
        if line.lstrip().startswith((b"{'", b"{u'")):
            remedy = (
                "this is a Python literal, as in the 2014 metadata; name the right file, "
                "or set interactions.format=amazon-2014"
            )
        else:
            remedy = _remedy(line)
        raise GreamError(f"{path}:{number}: not valid JSON ({error}); {remedy}") from None


def _literal(path: Path, number: int, line: bytes) -> object:
    try:
        return ast.literal_eval(line.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        says = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise GreamError(
            f"{path}:{number}: not a Python literal, as the 2014 metadata has it ({says}); {_remedy(line)}"
        ) from None


def _remedy(line: bytes) -> str:
    if line.endswith(b"\n"):
        return "correct the line or delete it"
    return "the file ends inside this line; download it again"


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _texts(values: list[Any]) -> list[str | None]:
    # An item of 2014 has several category paths; the first is that of the department it was crawled from.
    flat = values[0] if isinstance(values[0], list) else values
    return [_as_text(value) for value in flat]


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # A lone surrogate is legal in JSON and not in UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
