"""Readers of raw dumps, a module per family of formats; each returns the same tables, read strictly.

Polars reads the files. What it rejects is read again line by line in Python, which knows more forms or says which line
is wrong; so is what lacks a needed value, only to say which line it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import polars as pl

from .formats import Columns, Format
from .rows import RowLog


class Source(Protocol):
    """A format of raw data."""

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """Who reviewed, rated or bought what and when.

        Returns:
            row (uint32, order of input), user_id, item_id (strings), timestamp (int64, nanoseconds since 1970).

        Raises:
            GreamError: Missing, empty, damaged or truncated file, or a line without a needed value; names file, line
                and remedy.
        """

    def read_review_texts(self, path: Path, rows: pl.Series) -> pl.DataFrame:
        """Cleaned texts of chosen reviews; the others are never held in memory.

        Args:
            path: The file that `read_reviews` read.
            rows: ``row`` of the reviews wanted, distinct.

        Returns:
            row and text (summary, then review), in order of ``row``; reviews without any text are left out.

        Raises:
            GreamError: See `read_reviews`.
        """

    def read_metadata(self, path: Path) -> pl.DataFrame:
        """What the data says about its items, as it says it; `clean_items` makes texts of it.

        Returns:
            item_id, title, description (list), brand, category (list); a row for each item, in order of input, made
            of all its rows as `text.merged` does.

        Raises:
            GreamError: See `read_reviews`.
        """


def source_of(name: Format, columns: Columns, log: RowLog | None = None) -> Source:
    """The reader of a format.

    Args:
        name: Any format but ``published``, whose files hold finished sequences and no reviews.
        columns: Names of the columns of a ``table``.
        log: What becomes of rows of no use, and where they are counted; refused by default.
    """
    log = log or RowLog()
    if name == "movielens":
        from .movielens import MovieLens

        return MovieLens(log)
    if name == "table":
        from .table import Table

        return Table(columns, log=log)
    from .amazon import AMAZON

    return replace(AMAZON[name], log=log)
