"""Amazon review dumps of 2014, 2018 and 2023: JSON lines, and the Python literals that 2014 has, too."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from gream.errors import GreamError

from .fields import merged, present
from .files import bounded, numbered_lines, open_raw, shown
from .formats import Format
from .rows import Check, RowLog
from .text import review_text
from .times import Times, TwoReadingsError, Unit, read_times

_ID = r"[^\s\"\[\]{}\x00]+"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ARRAY = (
    "one JSON array, where a line for each object is expected; write one object per line, for instance with "
    "jq -c '.[]' OLD > NEW"
)
_TEXT, _LIST = pl.String(), pl.List(pl.String())


@dataclass(frozen=True)
class AmazonDump:
    """One generation of the dumps: what it calls things.

    Attributes:
        year: Of its publication.
        user: Field of a review.
        item: Field of a review and of an item.
        time: Field of a review.
        unit: Of ``time``; where all times of a file show another by their size, that one.
        summary: Field of a review.
        text: Field of a review.
        metadata: Fields of an item that are read, and their types.
        brand: Field of an item.
        category: Field of an item.
        log: What becomes of rows of no use.
    """

    year: int
    user: str
    item: str
    time: str
    unit: Unit
    summary: str
    text: str
    metadata: dict[str, pl.DataType]
    brand: str
    category: str
    log: RowLog = field(default_factory=RowLog, compare=False)

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """See `Source.read_reviews`."""
        frame = self._read_review_fields(path)
        if frame.is_empty():
            raise GreamError(f"{path}: holds no line of JSON; download it again")
        times = self._times(path, frame[self.time])
        checks = {
            self.user: Check("without a user", _is_id(frame[self.user])),
            self.item: Check("without an item", _is_id(frame[self.item])),
            self.time: Check("without a time that can be read", times.nanoseconds.is_not_null()),
        }

        def problem(name: str, index: int) -> str:
            number, row = self._row_at(path, frame["row"][index])
            if name != self.time:
                return f"{path}:{number}: {self._wrong_id(row, name, 'review')}"
            return f"{path}:{number}: '{name}' must be {times.expected}, found {shown(row.get(name))}"

        return self.log.usable(frame.with_columns(times.nanoseconds.alias("timestamp")), checks, problem).select(
            "row",
            pl.col(self.user).alias("user_id"),
            pl.col(self.item).alias("item_id"),
            "timestamp",
        )

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """See `Source.read_review_texts`."""
        wanted = rows.alias("row").to_frame().lazy()
        kept = {"row": pl.UInt32(), "text": _TEXT}
        frame = self._read(
            path,
            {self.summary: _TEXT, self.text: _TEXT},
            # Raw texts are many times what is kept of them, so they are cleaned as they come.
            lambda scan: scan.join(wanted, on="row", how="semi").map_batches(
                self._cleaned, schema=kept, streamable=True
            ),
        )
        return frame.sort("row")

    def _cleaned(self, frame: pl.DataFrame) -> pl.DataFrame:
        pairs = frame.select(
            pl.when(present(pl.col(name))).then(pl.col(name)).alias(name) for name in (self.summary, self.text)
        ).iter_rows()
        texts = pl.Series("text", [review_text(a or "", b or "") for a, b in pairs], dtype=pl.String)
        return frame.select("row", texts).filter(pl.col("text") != "")

    def read_metadata(self, path: Path) -> pl.DataFrame:
        """See `Source.read_metadata`."""
        # Polars would make a text of each category path of 2014.
        by_line = self.year == 2014
        frame = self._read_lines(path, self.metadata) if by_line else self._read(path, self.metadata)
        if frame.is_empty():
            raise GreamError(f"{path}: holds no line of JSON; download it again")
        if not by_line and _may_be_rounded(frame[self.item]):
            frame = self._read_lines(path, self.metadata)

        def problem(name: str, index: int) -> str:
            number, row = self._row_at(path, frame["row"][index])
            return f"{path}:{number}: {self._wrong_id(row, name, 'item')}"

        checks = {self.item: Check("of metadata without an item", _is_id(frame[self.item]))}
        frame = self.log.usable(frame, checks, problem)
        description = pl.col("description")
        if "features" in self.metadata:
            # Most items of 2023 are described by their features alone.
            description = pl.concat_list(pl.col("description", "features").fill_null([]))
        items = frame.select(
            pl.col(self.item).alias("item_id"),
            "title",
            description,
            pl.col(self.brand).alias("brand"),
            pl.col(self.category).alias("category"),
        )
        one_each = merged(items)
        self.log.merged += len(items) - len(one_each)
        return one_each

    def _read_review_fields(self, path: Path) -> pl.DataFrame:
        """User, item and time of each review, the time as int64 or as text."""
        schema: dict[str, pl.DataType] = {self.user: _TEXT, self.item: _TEXT, self.time: pl.Int64()}
        try:
            frame = _scanned(path, schema, lambda scan: scan)
        except (OSError, pl.exceptions.PolarsError):
            # Times with a fraction, or in quotes; or something that is wrong.
            frame = self._read(path, {**schema, self.time: _TEXT})
        if _may_be_rounded(frame[self.user]) or _may_be_rounded(frame[self.item]):
            frame = self._read_lines(path, {**schema, self.time: _TEXT})
        return frame

    def _read(
        self,
        path: Path,
        schema: dict[str, pl.DataType],
        plan: Callable[[pl.LazyFrame], pl.LazyFrame] = lambda scan: scan,
    ) -> pl.DataFrame:
        """The fields in ``schema`` and ``row``, through ``plan``."""
        try:
            return _scanned(path, schema, plan)
        except (OSError, pl.exceptions.PolarsError):
            # Fields of mixed types, values that JSON does not know, such as NaN; or something that is wrong.
            return plan(self._read_lines(path, schema).lazy()).collect()

    def _read_lines(self, path: Path, schema: dict[str, pl.DataType]) -> pl.DataFrame:
        """The same in Python, which reads more."""
        columns: dict[str, list[Any]] = {name: [] for name in schema}
        for number, row in self._rows(path):
            for name, dtype in schema.items():
                value = row.get(name)
                if not isinstance(dtype, pl.List):
                    columns[name].append(_as_text(value))
                elif value is None or isinstance(value, list):
                    columns[name].append(value and _texts(value))
                elif isinstance(value, str | float):
                    text = _as_text(value)
                    columns[name].append(text if text is None else [text])
                else:
                    raise GreamError(
                        f"{path}:{number}: '{name}' must be a list of texts, found {shown(value)}; "
                        "correct the line or delete it"
                    )
        return pl.DataFrame(columns, schema=schema).with_row_index("row")

    def _rows(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number, from 1, and content of each line that is not blank."""
        for number, line in numbered_lines(path):
            if line.strip():
                row = self._parsed(path, number, line)
                if isinstance(row, list) and row and isinstance(row[0], dict):
                    raise GreamError(f"{path}:{number}: {_ARRAY}")
                if not isinstance(row, dict):
                    raise GreamError(f"{path}:{number}: a JSON object is expected, found {shown(row)}; delete the line")
                yield number, row

    def _parsed(self, path: Path, number: int, line: bytes) -> object:
        """JSON; of 2014, which goes around in both forms, a Python literal as well."""
        try:
            return json.loads(line.decode("utf-8"), parse_constant=_no_value)
        except (ValueError, RecursionError) as error:
            what, says, remedy = "not valid JSON", _says(error), _remedy(number, line, error)
        quoted_by_python = line.lstrip().startswith((b"{'", b"{u'"))
        if self.year == 2014:
            try:
                return _literal(line)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                what, says = "neither JSON nor a Python literal", _says(error) if quoted_by_python else says
        elif quoted_by_python:
            remedy = "this is a Python literal; set interactions.format=amazon-2014, which reads both"
        raise GreamError(f"{path}:{number}: {what} ({says}); {remedy}")

    def _times(self, path: Path, values: pl.Series) -> Times:
        try:
            return read_times(values, None, None, self.unit)
        except TwoReadingsError as error:
            # There is no setting for a dump: its times are numbers.
            raise GreamError(f"{path}: '{self.time}' {str(error).split(';')[0]}; convert it to seconds") from None

    def _row_at(self, path: Path, index: int) -> tuple[int, dict[str, Any]]:
        """Number of the line, from 1, and content of the ``index``-th row, from 0."""
        return next(row for place, row in enumerate(self._rows(path)) if place == index)

    def _wrong_id(self, row: dict[str, Any], name: str, kind: str) -> str:
        value = row.get(name)
        if value is None:
            return f"'{name}' is missing, so this is no {kind} of the {self.year} dump; name the right file"
        return f"'{name}' must be an id without spaces, found {shown(value)}"


_OLD: dict[str, Any] = {
    "user": "reviewerID",
    "item": "asin",
    "time": "unixReviewTime",
    "summary": "summary",
    "text": "reviewText",
}
_ITEM: dict[str, pl.DataType] = {"asin": _TEXT, "title": _TEXT, "description": _LIST}
AMAZON: dict[Format, AmazonDump] = {
    "amazon-2014": AmazonDump(
        2014,
        **_OLD,
        unit="s",
        metadata={**_ITEM, "brand": _TEXT, "categories": _LIST},
        brand="brand",
        category="categories",
    ),
    "amazon-2018": AmazonDump(
        2018,
        **_OLD,
        unit="s",
        metadata={**_ITEM, "brand": _TEXT, "category": _LIST},
        brand="brand",
        category="category",
    ),
    "amazon-2023": AmazonDump(
        2023,
        user="user_id",
        item="parent_asin",
        time="timestamp",
        unit="ms",
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


def _scanned(path: Path, schema: dict[str, pl.DataType], plan: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
    # An open file and not its name: in a name, polars takes brackets and stars for patterns.
    with open_raw(path) as stream:
        return plan(pl.scan_ndjson(stream, schema=schema, row_index_name="row")).collect(engine="streaming")


def _is_id(values: pl.Series) -> pl.Series:
    def good(ids: pl.Series) -> pl.Series:
        column = pl.lit(ids)
        return pl.select(column.str.contains(f"^{_ID}$").fill_null(False) & present(column)).to_series()

    # Of most files all are, and the distinct ones are few.
    return pl.repeat(True, len(values), eager=True) if good(values.unique()).all() else good(values)


def _may_be_rounded(ids: pl.Series) -> bool:
    """Whether an id may be a number that polars took for a fraction, having no room for it in 64 bits."""
    return bool(ids.filter(ids.str.len_bytes() >= 20).str.contains(r"^\d+$").any())


def _literal(line: bytes) -> object:
    with warnings.catch_warnings():
        # Of backslashes in a literal.
        warnings.simplefilter("ignore")
        return ast.literal_eval(line.decode("utf-8").strip())


def _says(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    says = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
    # Behind this, ast shows an object by its address.
    return bounded(says.partition(" on line 1: <")[0])


def _remedy(number: int, line: bytes, error: Exception) -> str:
    """What to do about a line that gave ``error`` when it was read as JSON."""
    start = line.strip()
    if number == 1 and start == b"[":
        return _ARRAY
    if number == 1 and start == b"{":
        return "one object over several lines; write each on a line of its own, for instance with jq -c ."
    if start.startswith(b"{") and str(error).startswith("Extra data"):
        return "several objects in one line; write each on a line of its own, for instance with jq -c ."
    if number == 1 and start[:1] not in (b"{", b"["):
        return "of a table, as CSV is, have the columns found: gream shop ORDERS PRODUCTS"
    if line.endswith(b"\n"):
        return "correct the line or delete it"
    return "the file ends inside this line; download it again"


def _no_value(_: str) -> None:
    """Python's json module writes NaN where there is no value; JSON itself knows no such word."""


def _texts(values: list[Any]) -> list[str | None]:
    # An item of 2014 has several category paths; the first is that of the department it was crawled from.
    flat = values[0] if isinstance(values[0], list) else values
    return [_as_text(value) for value in flat]


def _as_text(value: object) -> str | None:
    """As polars turns JSON into text: whole numbers without a fraction."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        value = int(value)
    if isinstance(value, str):
        text = value
    else:
        try:
            text = json.dumps(value, default=str)
        except (ValueError, RecursionError):
            text = str(type(value))
    # A lone surrogate is legal in JSON and not in UTF-8; polars, too, puts this in its place.
    return _SURROGATE.sub("\0", text)
