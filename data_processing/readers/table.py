"""CSV and Parquet files with named columns: a table of interactions and a table of items."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from gream.errors import GreamError

from .fields import merged, present
from .files import bounded, first_bytes, numbered_lines, open_raw
from .formats import Columns
from .rows import Check, RowLog
from .text import review_text
from .times import Times, TwoReadingsError, read_times

# What stands between values where nobody says it, the likeliest first.
_DELIMITERS = (",", ";", "\t", "|", "::")
# Stands for a delimiter of several bytes, of which polars knows none; meant for this, and in no text.
_UNIT_SEPARATOR = "\x1f"
# Where lines are read whole; what stands behind one of these takes no part in the check.
_NO_SEPARATOR = "\x1e"
# Records read at once where Python reads them.
_RECORDS = 1 << 18
_SETTINGS = "interactions.columns.time_unit, or interactions.columns.time_format as in '%d %b %Y %H:%M'"
_FLOAT_ID = r"^\d+\.0+$"
# White space, and what shows nothing where it stands.
_AROUND = r"^[\s\u{200b}-\u{200f}\u{2060}\u{feff}]+|[\s\u{200b}-\u{200f}\u{2060}\u{feff}]+$"
_HEAD = 64
# Characters of a value; of the process, as Python has it. polars knows no limit.
csv.field_size_limit(1 << 30)


class Table:
    """CSV or Parquet, told by content; `Columns` says what is in which column."""

    def __init__(self, columns: Columns, header: Sequence[str] | None = None, log: RowLog | None = None) -> None:
        """Take the names.

        Args:
            columns: What is in which column.
            header: Names of all columns of a CSV file whose first line holds none.
            log: What becomes of rows of no use.
        """
        self.columns = columns
        self._header = header
        self._log = log or RowLog()

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """See `Source.read_reviews`."""
        names = {"user": self.columns.user, "item": self.columns.item, "time": self.columns.time}
        frame = self._read(path, names)
        users, items = _ids(frame["user"]), _ids(frame["item"])
        times = self._times(path, frame["time"])
        frame = frame.with_columns(users.alias("user_id"), items.alias("item_id"), times.nanoseconds.alias("timestamp"))
        expected = {
            "user": "a user id",
            "item": "an item id",
            "time": f"{times.expected} (written otherwise: {_SETTINGS})",
        }

        def problem(name: str, index: int) -> str:
            return self._wrong(path, frame, index, name, names[name], expected[name])

        return self._log.usable(
            frame,
            {
                "user": Check("without a user", users.is_not_null()),
                "item": Check("without an item", items.is_not_null()),
                "time": Check("without a time that can be read", times.nanoseconds.is_not_null()),
            },
            problem,
        ).select("row", "user_id", "item_id", "timestamp")

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """See `Source.read_review_texts`."""
        if self.columns.text is None:
            return pl.DataFrame(schema={"row": pl.UInt32, "text": pl.String})
        frame = self._read(path, {"text": self.columns.text}, rows)
        said = frame.filter(present(pl.col("text").cast(pl.String, strict=False)))
        texts = pl.Series("text", [review_text("", str(text)) for text in said["text"]], dtype=pl.String)
        return said.select("row", texts).filter(pl.col("text") != "").sort("row")

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
        ids = _ids(frame["item_id"])
        frame = self._log.usable(
            frame.with_columns(ids.alias("id")),
            {"item_id": Check("of metadata without an item", ids.is_not_null())},
            lambda name, index: self._wrong(path, frame, index, name, columns.item_id, "an item id"),
        )
        frame = frame.with_columns(pl.lit(None, pl.String).alias(key) for key in named if named[key] is None)

        plain: dict[str, pl.Expr] = {}
        for key in named:
            plain[key], kind = pl.col(key), frame.schema[key]
            # Of lists of lists, as Amazon's categories, the first: those behind it are other ways to the same item.
            while isinstance(kind, pl.List | pl.Array) and isinstance(kind.inner, pl.List | pl.Array):
                plain[key], kind = plain[key].list.first(), kind.inner
            inner = kind.inner if isinstance(kind, pl.List | pl.Array) else kind
            if inner.is_nested():
                raise GreamError(f"{path}: column '{named[key]}' holds {bounded(str(kind), 60)}; write it as text")
        is_lists = {key: isinstance(frame.schema[key], pl.List | pl.Array) for key in named}

        def text(key: str) -> pl.Expr:
            value = plain[key]
            if is_lists[key]:
                value = value.cast(pl.List(pl.String), strict=False).list.join(" ", ignore_nulls=True)
            return value.cast(pl.String, strict=False).alias(key)

        def as_list(key: str, parts: pl.Expr) -> pl.Expr:
            value = plain[key] if is_lists[key] else parts
            return value.cast(pl.List(pl.String), strict=False).alias(key)

        category = pl.col("category").cast(pl.String, strict=False)
        # A list that was written as text is taken apart with the other texts.
        is_list = category.str.contains(r"^\s*\[.*\]\s*$")
        path_parts = (
            pl.when(is_list).then(pl.concat_list(category)).otherwise(category.str.split(columns.category_separator))
        )
        items = frame.select(
            pl.col("id").alias("item_id"),
            text("title"),
            as_list("description", pl.concat_list(pl.col("description").cast(pl.String, strict=False))),
            text("brand"),
            as_list("category", path_parts),
        )
        one_each = merged(items)
        self._log.merged += len(items) - len(one_each)
        return one_each

    def _times(self, path: Path, values: pl.Series) -> Times:
        try:
            return read_times(values, self.columns.time_unit, self.columns.time_format)
        except TwoReadingsError as error:
            raise GreamError(f"{path}: column '{self.columns.time}' {error}") from None

    def _read(self, path: Path, names: Mapping[str, str], rows: pl.Series | None = None) -> pl.DataFrame:
        """The wanted columns under our names, and row (uint32, order of input); of the wanted rows, or of all."""
        delimiter = "" if is_parquet(path) else self._delimiter(path, list(names.values()))
        with _with_single_bytes(path, delimiter) as stream:
            try:
                scan = self._scan(path, stream, delimiter, set(names.values()))
                known = {name.strip(): name for name in reversed(scan.collect_schema().names())}
                for ours, theirs in names.items():
                    if theirs not in known:
                        self._raise_no_column(path, ours, theirs, list(reversed(known)), delimiter)
                    if delimiter and self._header is None and _first_record(path, delimiter).count(theirs) > 1:
                        raise GreamError(f"{path}: two columns are called '{theirs}'; give them a name each")
                wanted = {ours: pl.col(known[theirs]) for ours, theirs in names.items()}
                scan = scan.select(**wanted)
                if delimiter and not self._is_plain(path, delimiter):
                    scan = self._by_records(path, delimiter, names).lazy()
                scan = scan.with_row_index("row")
                if rows is not None:
                    scan = scan.join(rows.alias("row").to_frame().lazy(), on="row", how="semi")
                frame = scan.collect(engine="streaming")
            except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
                if not is_parquet(path):
                    self._by_records(path, delimiter, {})  # names the line that makes it unreadable, if one does
                raise _unreadable(path, error) from None
        if rows is not None:
            return frame
        if not is_parquet(path):
            # Polars takes a blank line for a row without values.
            frame = frame.filter(pl.any_horizontal(pl.col(*names).is_not_null()))
        if frame.is_empty():
            raise GreamError(f"{path}: holds no row; download it again")
        return frame

    def _scan(self, path: Path, stream: IO[bytes], delimiter: str, wanted: set[str]) -> pl.LazyFrame:
        # An open file and not its name: in a name, polars takes brackets and stars for patterns.
        if is_parquet(path):
            if stream.read(4) != b"PAR1":
                raise GreamError(f"{path}: Parquet within another compression; unpack it and name the file inside")
            stream.seek(0)
            return _read_parquet(stream, wanted).lazy()
        header = self._header
        single = len(delimiter.encode()) == 1
        return pl.scan_csv(
            stream,
            separator=delimiter if single else _UNIT_SEPARATOR,
            has_header=header is None,
            new_columns=None if header is None else list(header),
            infer_schema=False,
            quote_char='"' if single else None,
        )

    def _is_plain(self, path: Path, delimiter: str) -> bool:
        """Whether each line is a row of no more values than there are columns, with quotation marks around values only.

        Of other files polars makes other rows without a word: a mark inside a value begins a quotation that swallows
        lines until the next one, and what is too much in a line is passed over where columns are chosen.
        """
        columns = len(self._header or _first_record(path, delimiter))
        if len(delimiter.encode()) > 1:
            row = pl.col("line").str.count_matches(_UNIT_SEPARATOR, literal=True) < columns
        else:
            between = re.escape(delimiter)
            value = rf'(?:[^"{between}]*|"(?:[^"]|"")*")'
            row = pl.col("line").str.contains(rf"^{value}(?:{between}{value}){{0,{columns - 1}}}\s*$")
        with _with_single_bytes(path, delimiter) as stream:
            lines = pl.scan_csv(
                stream,
                separator=_NO_SEPARATOR,
                quote_char=None,
                has_header=False,
                new_columns=["line"],
                infer_schema=False,
                truncate_ragged_lines=True,
            )
            return bool(lines.select(row.all()).collect(engine="streaming").item())

    def _by_records(self, path: Path, delimiter: str, names: Mapping[str, str]) -> pl.DataFrame:
        """The wanted columns under our names, as Python's csv module reads them, record by record.

        Raises:
            GreamError: A record has more values than there are columns, or a quotation mark in the wrong place.
        """
        header = list(self._header or _first_record(path, delimiter))
        places = {ours: header.index(theirs) for ours, theirs in names.items()}
        parts: list[pl.DataFrame] = []
        records = self._records(path, delimiter)
        if self._header is None:
            next((values for _, values in records if values), None)
        while part := list(islice(records, _RECORDS)):
            for line, values in part:
                if any(values[len(header) :]):
                    raise GreamError(
                        f"{path}:{line}: {len(values)} values where {len(header)} are expected; put quotation marks "
                        "around the value that holds the delimiter, or name the right interactions.columns.delimiter"
                    )
            parts.append(
                pl.DataFrame(
                    {
                        ours: [values[place] or None if place < len(values) else None for _, values in part]
                        for ours, place in places.items()
                    },
                    schema=dict.fromkeys(places, pl.String),
                )
            )
        return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(places, pl.String))

    def _delimiter(self, path: Path, wanted: Sequence[str]) -> str:
        """What stands between values: what is set, else what shows the wanted columns in the first line."""
        if self.columns.delimiter is not None:
            return self.columns.delimiter
        start = first_bytes(path, _HEAD).lstrip()
        if start.startswith((b"{", b"[")):
            raise GreamError(f"{path}: JSON, where a table is needed; write it as CSV or Parquet")
        if start.lower().startswith(b"sep="):
            raise GreamError(f"{path}:1: a note for Excel, where the names of the columns are needed; delete this line")
        headers = {delimiter: _first_record(path, delimiter) for delimiter in _DELIMITERS}
        return max(_DELIMITERS, key=lambda one: (len(set(wanted) & set(headers[one])), len(headers[one])))

    def _raise_no_column(self, path: Path, ours: str, theirs: str, known: Sequence[str], delimiter: str) -> None:
        setting = f"interactions.columns.{'categories' if ours == 'category' else ours}"
        other = next(
            (one for one in _DELIMITERS if delimiter and one != delimiter and theirs in _first_record(path, one)), None
        )
        if other is not None:
            raise GreamError(
                f"{path}: has no column '{theirs}' between {delimiter!r}; it looks like {other!r} stands between its "
                f"values: set interactions.columns.delimiter={other!r}"
            )
        hint = ", or what stands between values in interactions.columns.delimiter" if len(known) == 1 else ""
        if not {self.columns.user, self.columns.item, self.columns.item_id, self.columns.title} & set(known):
            hint += "; the first line must hold the names of the columns"
        raise GreamError(
            f"{path}: has no column '{theirs}', but {bounded(', '.join(known))}; name the right one in {setting}{hint}"
        )

    def _wrong(self, path: Path, frame: pl.DataFrame, index: int, name: str, column: str, expected: str) -> str:
        """What is wrong with the value in a row of ``frame``."""
        found = bounded(repr(frame[name][index]), 60)
        place = self._place(path, frame["row"][index])
        return f"{place}: column '{bounded(column, 60)}' must hold {expected}, found {found}"

    def _place(self, path: Path, row: int) -> str:
        """File and line, or row, of the ``row``-th record after the names, from 0."""
        if is_parquet(path):
            return f"{path}: row {row + 1}"
        target = row + (self._header is None)
        records = self._records(path, self._delimiter(path, [self.columns.user, self.columns.item_id]))
        line = next((line for number, (line, _) in enumerate(records) if number == target), None)
        return f"{path}:{line}" if line is not None else f"{path}: row {row + 1}"

    def _records(self, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Number of the first line, from 1, and values of each record; a blank line is a record without values."""
        if len(delimiter.encode()) > 1:
            for number, text in enumerate(decoded_lines(path), start=1):
                yield number, text.rstrip("\r\n").split(delimiter)
            return
        yield from csv_records(path, decoded_lines(path), delimiter, strict=True)


def csv_records(path: Path, lines: Iterable[str], delimiter: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, from 1, and values of each record; a blank line is a record without values.

    Args:
        path: Of the file, for errors.
        lines: Its lines, from the first one on.
        delimiter: One character.
        strict: Whether a quotation mark in the wrong place is an error.

    Raises:
        GreamError: It is not valid CSV; names the line at which the record begins.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    line = 1
    try:
        for values in reader:
            yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        raise GreamError(f"{path}:{line}: not valid CSV ({error}); correct the line or delete it") from None


def _with_single_bytes(path: Path, delimiter: str) -> IO[bytes]:
    """The file as polars reads it: with one byte between values."""
    if len(delimiter.encode()) <= 1:
        return open_raw(path)
    lines = []
    for number, line in numbered_lines(path):
        if _UNIT_SEPARATOR.encode() in line:
            raise GreamError(f"{path}:{number}: holds the control character 0x1f; delete it")
        lines.append(line.replace(delimiter.encode(), _UNIT_SEPARATOR.encode()))
    return io.BytesIO(b"".join(lines))


def _first_record(path: Path, delimiter: str) -> list[str]:
    """The values of the first line that is not blank, without white space around them."""
    line = next((line for _, line in numbered_lines(path) if line.strip()), b"").decode("utf-8", "replace")
    line = line.rstrip("\r\n")
    if len(delimiter) == 1:
        try:
            return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            pass
    return [value.strip() for value in line.split(delimiter)]


def decoded_lines(path: Path) -> Iterator[str]:
    """The lines of a file, their ends included.

    Raises:
        GreamError: See `numbered_lines`; or a line is not UTF-8.
    """
    for number, line in numbered_lines(path):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GreamError(
                f"{path}:{number}: not UTF-8 ({error.reason}); export it as 'CSV UTF-8', or convert it, as by "
                "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
            ) from None


def _read_parquet(stream: IO[bytes], wanted: set[str]) -> pl.DataFrame:
    """The wanted columns of a Parquet file; of all columns no row where one is not there.

    By pyarrow, which checks what the file says of itself: on a damaged one, polars ends the whole process.
    """
    file = pq.ParquetFile(stream)
    known = file.schema_arrow.names
    if not wanted <= {name.strip() for name in known}:
        return pl.DataFrame(schema=dict.fromkeys(known, pl.Null()))
    return _as_frame(file.read(columns=[name for name in known if name.strip() in wanted]))


def first_rows(path: Path, count: int) -> pl.DataFrame:
    """The first ``count`` rows of a Parquet file, or fewer, all columns.

    Raises:
        GreamError: The file is damaged.
    """
    try:
        with open_raw(path) as stream:
            file = pq.ParquetFile(stream)
            return _as_frame(pa.Table.from_batches([*islice(file.iter_batches(count), 1)], schema=file.schema_arrow))
    except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from None


def _as_frame(table: pa.Table) -> pl.DataFrame:
    table.validate(full=True)
    # Column by column, without what else the file notes about them.
    return pl.DataFrame(
        {name: pl.from_arrow(_in_utc(column)) for name, column in zip(table.column_names, table.columns, strict=True)}
    )


def _in_utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same moments, of a zone that polars knows: it knows none like +05:30."""
    kind = column.type
    return column.cast(pa.timestamp(kind.unit, "UTC")) if pa.types.is_timestamp(kind) and kind.tz else column


def _unreadable(path: Path, error: Exception) -> GreamError:
    return GreamError(f"{path}: cannot be read as a table ({bounded(str(error))}); make or download it again")


def is_parquet(path: Path) -> bool:
    """Whether the file shows at its start that it is Parquet."""
    return first_bytes(path, 4) == b"PAR1"


def _ids(values: pl.Series) -> pl.Series:
    """Ids as texts without white space, or what cannot be seen, around them; null where there is none.

    Whole numbers that a table library wrote as fractions, because a neighbour was missing, lose the fraction.
    """
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        return pl.Series(values.name, [None] * len(values), pl.String)
    if values.dtype.is_float():
        known = values.fill_nan(None).drop_nulls()
        if (known == known.floor()).all():
            values = values.fill_nan(None).cast(pl.Int64, strict=False)
    texts = values.cast(pl.String, strict=False).str.replace_all(_AROUND, "")
    if texts.str.contains(r"[^\x00-\x7f]").any():
        # The same letters, in whichever way they are put together.
        texts = texts.str.normalize("NFC")
    column = pl.lit(texts)
    texts = pl.select(pl.when(present(column)).then(column)).to_series()
    # Of most columns the first value says that they are none of these.
    known = texts.drop_nulls()
    if known.head(1).str.contains(_FLOAT_ID).any() and known.str.contains(_FLOAT_ID).all():
        texts = texts.str.replace(r"\.0+$", "")
    return texts.alias(values.name)
