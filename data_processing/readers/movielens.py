"""MovieLens: ``u.data`` and ``u.item``, ``ratings.dat`` and ``movies.dat``, or ``ratings.csv`` and ``movies.csv``.

Every rating is an interaction, whatever its value. Genres stand for categories; there are no texts besides titles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from gream.errors import GreamError

from .fields import merged
from .files import numbered_lines, plain_name
from .formats import Columns
from .rows import RowLog
from .table import Table
from .text import METADATA

# u.item flags genres in this order, which its own u.genre lists.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_NO_GENRES = "(no genres listed)"

_CSV = Columns(
    user="userId",
    item="movieId",
    time="timestamp",
    item_id="movieId",
    title="title",
    categories="genres",
    delimiter=",",
)
# Columns of ratings, and their names where the file has none.
_RATINGS: Mapping[str, tuple[Columns, tuple[str, ...] | None]] = {
    ".data": (Columns(delimiter="\t"), ("user_id", "item_id", "rating", "timestamp")),
    # "::" is read as two separators with nothing between them.
    ".dat": (Columns(delimiter=":"), ("user_id", "_1", "item_id", "_2", "rating", "_3", "timestamp")),
    ".csv": (_CSV, None),
}


class MovieLens:
    """Ratings and movies of any of the three layouts, told by the file's name."""

    def __init__(self, log: RowLog) -> None:
        """Take what becomes of rows of no use."""
        self._log = log

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """See `Source.read_reviews`."""
        layout = _RATINGS.get(Path(plain_name(path)).suffix)
        if layout is None:
            raise GreamError(f"{path}: no MovieLens ratings by its name; name u.data, ratings.dat or ratings.csv")
        return Table(*layout, log=self._log).read_reviews(path)

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """See `Source.read_review_texts`; nobody wrote a text with a rating."""
        return Table(_CSV).read_review_texts(path, rows)

    def read_metadata(self, path: Path) -> pl.DataFrame:
        """See `Source.read_metadata`."""
        kind = Path(plain_name(path)).suffix
        if kind == ".csv":
            named = pl.col("category").list.filter(pl.element() != _NO_GENRES)
            return Table(_CSV, log=self._log).read_metadata(path).with_columns(named)
        if kind not in (".item", ".dat"):
            raise GreamError(f"{path}: no MovieLens movies by its name; name u.item, movies.dat or movies.csv")
        separator, fields = ("|", 5 + len(_GENRES)) if kind == ".item" else ("::", 3)
        rows: list[tuple[Any, ...]] = []
        for number, line in numbered_lines(path):
            values = _decoded(line).rstrip("\r\n").split(separator)
            if values == [""]:
                continue
            if len(values) != fields or not re.fullmatch(r"\d+", values[0]):
                raise GreamError(
                    f"{path}:{number}: {fields} values with '{separator}' between them are expected, a movie's number "
                    f"first, found {len(values)}; correct the line, or download the file again"
                )
            flags = values[5:]
            genres = (
                [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
                if kind == ".item"
                else [genre for genre in values[2].split("|") if genre != _NO_GENRES]
            )
            rows.append((values[0], values[1], None, None, genres))
        if not rows:
            raise GreamError(f"{path}: holds no movie; download it again")
        movies = pl.DataFrame(rows, schema=METADATA, orient="row")
        one_each = merged(movies)
        self._log.merged += len(movies) - len(one_each)
        return one_each


def _decoded(line: bytes) -> str:
    # The two oldest sets are in Latin-1, the 10M set is in UTF-8; accented Latin-1 is hardly ever valid UTF-8.
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
