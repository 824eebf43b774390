"""Readers of raw dumps, a module per family of formats; each returns the same tables, read strictly.

Polars reads the files. What it rejects, or lets pass although a needed value is missing, is read again line by line in
Python, only to say which line it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import polars as pl

from .formats import Columns, Format


class Source(Protocol):
    """A format of raw data."""

    def read_reviews(self, path: Path) -> pl.DataFrame:
        """Who reviewed, rated or bought what and when.

        Returns:
            row (uint32, order of input), user_id, item_id (strings), timestamp (int64, seconds since 1970).

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
            item_id, title, description (list), brand, category (list); the first row of each item, in order of input.

        Raises:
            GreamError: See `read_reviews`.
        """


def source_of(name: Format, columns: Columns) -> Source:
    """The reader of a format.

    Args:
        name: Any format but ``published``, whose files hold finished sequences and no reviews.
        columns: Names of the columns of a ``table``.
    """
    if name == "movielens":
        from .movielens import MovieLens

        return MovieLens()
    if name == "table":
        from .table import Table

        return Table(columns)
    from .amazon import AMAZON

    return AMAZON[name]
