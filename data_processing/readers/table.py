"""CSV and Parquet files with named columns: a table of interactions and a table of items."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import polars as pl
from gream.errors import GreamError

from .amazon import LATEST_SECOND
from .files import first_bytes, numbered_lines, open_raw
from .formats import Columns
from .text import review_text


class Table:
    """CSV or Parquet, told by content; `Columns` says what is in which column."""

    def __init__(self, columns: Columns, header: Sequence[str] | None = None) -> None:
        """Take the names.

        Args:
            columns: What is in which column.
            header: Names of all columns of a CSV file whose first line holds none.
        """
        self.columns = columns
        self._header = header

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """See `Source.read_reviews`."""
        names = {"user": self.columns.user, "item": self.columns.item, "time": self.columns.time}
        frame = self._read(path, names)
        times = _seconds(frame["time"], 1000 if self.columns.time_unit == "ms" else 1)
        self._check(
            path,
            frame,
            names,
            {
                "user": (_is_id(frame["user"]), "a user id"),
                "item": (_is_id(frame["item"]), "an item id"),
                "time": (
                    times.is_between(0, LATEST_SECOND).fill_null(False),
                    f"a date, or a time since 1970 in {self.columns.time_unit} (interactions.columns.time_unit)",
                ),
            },
        )
        return frame.select(
            "row",
            pl.col("user").cast(pl.String).alias("user_id"),
            pl.col("item").cast(pl.String).alias("item_id"),
            times.alias("timestamp"),
        )

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """See `Source.read_review_texts`."""
        if self.columns.text is None:
            return pl.DataFrame(schema={"row": pl.UInt32, "text": pl.String})
        frame = self._read(path, {"text": self.columns.text}, rows)
        texts = pl.Series("text", [review_text("", str(text or "")) for text in frame["text"]], dtype=pl.String)
        return frame.select("row", texts).filter(pl.col("text") != "").sort("row")

    def read_metadata(self, path: Path) -> pl.DataFrame:
        """See `Source.read_metadata`."""
        columns = self.columns
        named = {
            "item_id": columns.item_id,
            "title": columns.title,
            "description": columns.description,
            "brand": columns.brand,
            "category": columns.categories,
        }
        frame = self._read(path, {key: name for key, name in named.items() if name is not None})
        self._check(path, frame, {"item_id": columns.item_id}, {"item_id": (_is_id(frame["item_id"]), "an item id")})
        frame = frame.with_columns(pl.lit(None, pl.String).alias(key) for key in named if named[key] is None)

        def as_list(key: str, parts: pl.Expr) -> pl.Expr:
            value = pl.col(key) if frame.schema[key].is_nested() else parts
            return value.cast(pl.List(pl.String)).alias(key)

        return frame.select(
            pl.col("item_id", "title").cast(pl.String),
            as_list("description", pl.concat_list(pl.col("description").cast(pl.String))),
            pl.col("brand").cast(pl.String),
            as_list("category", pl.col("category").cast(pl.String).str.split(columns.category_separator)),
        ).unique("item_id", keep="first", maintain_order=True)

    def _read(self, path: Path, names: Mapping[str, str], rows: pl.Series | None = None) -> pl.DataFrame:
        """The wanted columns under our names, and row (uint32, order of input); of the wanted rows, or of all."""
        with open_raw(path) as stream:
            try:
                scan = self._scan(path, stream)
                known = scan.collect_schema().names()
                for ours, theirs in names.items():
                    if theirs not in known:
                        raise GreamError(
                            f"{path}: has no column '{theirs}', but {', '.join(known)}; name the right one in "
                            f"interactions.columns.{'categories' if ours == 'category' else ours}"
                        )
                wanted = {ours: pl.col(theirs) for ours, theirs in names.items()}
                scan = scan.select(**wanted).with_row_index("row")
                if rows is not None:
                    scan = scan.join(rows.alias("row").to_frame().lazy(), on="row", how="semi")
                frame = scan.collect(engine="streaming")
            except (OSError, pl.exceptions.PolarsError) as error:
                if not _is_parquet(path):
                    self._raise_first_problem(path)
                says = " ".join(str(error).split())
                raise GreamError(f"{path}: cannot be read as a table ({says}); make or download it again") from None
        if rows is not None:
            return frame
        if not _is_parquet(path):
            # Polars takes a blank line for a row without values.
            frame = frame.filter(pl.any_horizontal(pl.col(*names).is_not_null()))
        if frame.is_empty():
            raise GreamError(f"{path}: holds no row; download it again")
        return frame

    def _scan(self, path: Path, stream: IO[bytes]) -> pl.LazyFrame:
        # An open file and not its name: in a name, polars takes brackets and stars for patterns.
        if _is_parquet(path):
            return pl.scan_parquet(stream)
        header = self._header
        return pl.scan_csv(
            stream,
            separator=self.columns.delimiter,
            has_header=header is None,
            new_columns=None if header is None else list(header),
            infer_schema=False,
        )

    def _check(
        self, path: Path, frame: pl.DataFrame, names: Mapping[str, str], checks: Mapping[str, tuple[pl.Series, str]]
    ) -> None:
        """Refuse the first row in which a value is not what it must be."""
        problems = [(int((~good).arg_true()[0]), name) for name, (good, _) in checks.items() if not good.all()]
        if not problems:
            return
        index, name = min(problems)
        raise GreamError(
            f"{self._place(path, frame['row'][index])}: column '{names[name]}' must hold {checks[name][1]}, "
            f"found {frame[name][index]!r}; correct the line or delete it"
        )

    def _place(self, path: Path, row: int) -> str:
        """File and line, or row, of the ``row``-th record after the names, from 0."""
        if _is_parquet(path):
            return f"{path}: row {row + 1}"
        target = row + (self._header is None)
        line = next(line for number, (line, _) in enumerate(self._records(path)) if number == target)
        return f"{path}:{line}"

    def _raise_first_problem(self, path: Path) -> None:
        """Raise what makes a CSV file unreadable, if reading it line by line shows it."""
        columns = len(self._header) if self._header else 0
        for line, values in self._records(path):
            columns = columns or len(values)
            if len(values) > columns:
                raise GreamError(
                    f"{path}:{line}: {len(values)} values where {columns} are expected; correct the line, or name the "
                    "right interactions.columns.delimiter"
                )

    def _records(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Number of the first line, from 1, and values of each record; a blank line is a record without values."""
        reader = csv.reader(_decoded(path), delimiter=self.columns.delimiter, strict=True)
        line = 1
        try:
            for values in reader:
                yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            raise GreamError(f"{path}:{line}: not valid CSV ({error}); correct the line or delete it") from None


def _decoded(path: Path) -> Iterator[str]:
    for number, line in numbered_lines(path):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GreamError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def _is_parquet(path: Path) -> bool:
    return first_bytes(path, 4) == b"PAR1"


def _is_id(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.contains(r"\S").fill_null(False)


def _seconds(values: pl.Series, unit: int) -> pl.Series:
    """Whole seconds since 1970 (int64); null where the value is no time.

    Args:
        values: Numbers, dates, times, or texts of these.
        unit: What a number counts, as a part of a second.
    """
    if values.dtype in (pl.Date, pl.Datetime):
        return values.dt.epoch("s")
    numbers = values.cast(pl.Int64, strict=False)
    if values.dtype.is_integer() or not numbers.null_count():
        return numbers // unit
    # Numbers that a table library wrote as fractions, because a neighbour was missing, and dates.
    fractions = values.cast(pl.Float64, strict=False)
    whole = pl.when(fractions == fractions.floor()).then(fractions.cast(pl.Int64, strict=False)) // unit
    dates = pl.lit(None, pl.Int64)
    if values.dtype == pl.String:
        dates = pl.lit(values).str.to_datetime(strict=False, time_zone="UTC").dt.epoch("s")
    return pl.select(pl.coalesce(numbers // unit, whole, dates).alias("time")).to_series()
