"""Parquet tables are read here, by their very name: polars alone takes brackets and stars in a name for patterns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gream.errors import GreamError

if TYPE_CHECKING:
    import polars as pl


def read_table(path: Path, *columns: str) -> pl.DataFrame:
    """The table in ``path``.

    Args:
        path: Parquet file.
        columns: Those that are needed; all where none is named.

    Raises:
        GreamError: It cannot be read or lacks a column.
    """
    import polars as pl

    try:
        return pl.read_parquet(path, columns=list(columns) or None, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        wanted = f"no table with the columns {', '.join(columns)}" if columns else "cannot be read as Parquet"
        raise GreamError(f"{path}: {wanted} ({(str(error).splitlines() or [''])[0]})") from None


def read_numbers(path: Path, number: str, name: str) -> dict[str, int]:
    """Numbers of users or items by their names in the data, in order of the numbers.

    Args:
        path: ``users.parquet`` or ``items.parquet``.
        number: Column of the numbers.
        name: Column of the names.

    Raises:
        GreamError: See `read_table`.
    """
    table = read_table(path, number, name).sort(number)
    return dict(zip(map(str, table[name]), table[number].to_list(), strict=True))
