"""Read the tables of a run folder into the plain structures that later stages work on."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.files import Row, parse_jsonl
from gream.tables import read_table
from polars.io.plugins import register_io_source

_SEQUENCE = ("user", "position", "item")
# Rows of a Parquet file that are made at once, and that are written as one group.
_ROWS = 1 << 9
_ROW_GROUP = 1 << 18


@dataclass(frozen=True)
class Item:
    """One catalogue item.

    Attributes:
        title: Cleaned title.
        description: Cleaned description; may be empty.
        brand: May be empty.
        category: Most specific category; may be empty.
        categories: From general to specific.
    """

    title: str
    description: str
    brand: str
    category: str
    categories: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sequences(Mapping[int, list[int]]):
    """Items of each user, oldest first, in arrays: a mapping that takes a tenth of the memory of one of lists.

    Attributes:
        users: int64 ``[n]``, ascending.
        start: int64 ``[n]``, where each user's items begin in ``flat``.
        stop: int64 ``[n]``, where they end.
        flat: int32 ``[m]``, all items.
    """

    users: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    flat: npt.NDArray[np.int32]

    @staticmethod
    def of(sequences: Mapping[int, Sequence[int]]) -> Sequences:
        """The same sequences in this form."""
        if isinstance(sequences, Sequences):
            return sequences
        users = sorted(sequences)
        stop = np.cumsum([0, *(len(sequences[user]) for user in users)])
        items = np.array([item for user in users for item in sequences[user]], dtype=np.int32)
        return Sequences(np.array(users, dtype=np.int64), stop[:-1], stop[1:], items)

    def __getitem__(self, user: int) -> list[int]:
        row = int(np.searchsorted(self.users, user))
        if row == len(self.users) or self.users[row] != user:
            raise KeyError(user)
        return self.flat[self.start[row] : self.stop[row]].tolist()

    def __iter__(self) -> Iterator[int]:
        yield from self.users.tolist()

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[n]``, items of each user."""
        return self.stop - self.start

    def shortened(self, by: int, users: Collection[int] | None = None) -> Sequences:
        """Without the last ``by`` items of each of ``users``, of all by default."""
        less = by if users is None else by * np.isin(self.users, list(users))
        return Sequences(self.users, self.start, np.maximum(self.stop - less, self.start), self.flat)

    def targets(self, least: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Every item that has ``least`` items or more before it, by user and then by time.

        Returns:
            int64 ``[t]`` each: the number of the user's row, and the item's position in the sequence.
        """
        count = np.maximum(self.lengths - least, 0)
        rows = np.repeat(np.arange(len(count)), count)
        return rows, np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count) + least

    def pairs(self) -> npt.NDArray[np.int64]:
        """Items that follow each other in a sequence, ``[p, 2]``."""
        rows, positions = self.targets(1)
        second = self.start[rows] + positions
        return np.stack([self.flat[second - 1], self.flat[second]], axis=1).astype(np.int64)


def rows_of(*columns: npt.NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """Arrays of one length entry by entry, as Python's own numbers: of some rows at a time."""
    for start in range(0, len(columns[0]), _ROWS):
        yield from zip(*(column[start : start + _ROWS].tolist() for column in columns), strict=True)


class JsonlTable(Mapping[int, Row]):
    """Fields of the rows of a JSON-lines file, by a number in each row: read from the file when asked for."""

    def __init__(self, path: Path, key: str, fields: Sequence[str]) -> None:
        """Note where each row begins.

        Args:
            path: JSON-lines file.
            key: Name of the number.
            fields: Names of the fields.

        Raises:
            GreamError: A line is no JSON object with these; names file and line.
        """
        self._fields = fields
        self._begins: dict[int, int] = {}
        begins = array("q", [0])

        def noted(stream: Iterable[bytes]) -> Iterator[bytes]:
            for line in stream:
                begins.append(begins[-1] + len(line))
                yield line

        expected = {key: int, **dict.fromkeys(fields, str)}
        with path.open("rb") as stream:
            for number, row in parse_jsonl(noted(stream), path, remedy="make the file again", fields=expected):
                self._begins[row[key]] = begins[number - 1]
            self._text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if begins[-1] else BytesIO()

    def __getitem__(self, number: int) -> Row:
        self._text.seek(self._begins[number])
        row = json.loads(self._text.readline())
        return {name: row[name] for name in self._fields}

    def __iter__(self) -> Iterator[int]:
        return iter(self._begins)

    def __len__(self) -> int:
        return len(self._begins)

    def __contains__(self, number: object) -> bool:
        return number in self._begins


def read_items(path: Path) -> list[Item]:
    """All items of ``items.parquet``, item 0 first."""
    return [
        Item(
            title=row["title"],
            description=row["description"],
            brand=row["brand"],
            category=row["categories"][-1] if row["categories"] else "",
            categories=tuple(row["categories"]),
        )
        for row in read_table(path).sort("item").iter_rows(named=True)
    ]


def read_item_ids(path: Path) -> list[str]:
    """The dump's own id of each item of ``items.parquet``, item 0 first."""
    ids: list[str] = read_table(path, "item", "item_id").sort("item")["item_id"].to_list()
    return ids


def read_sequences(path: Path) -> Sequences:
    """Whole chronological sequence of each user from ``interactions.parquet``, validation and test item included."""
    return _sequences(read_table(path, *_SEQUENCE))


def read_training_sequences(path: Path, *, refit: bool = False) -> Sequences:
    """Chronological sequence of each user without the validation and the test item; of a refit, with the former."""
    splits = ["train", "valid"] if refit else ["train"]
    return _sequences(read_table(path, *_SEQUENCE, "split").filter(pl.col("split").is_in(splits)))


def training_pairs(path: Path | None) -> npt.NDArray[np.int64]:
    """Items that follow each other in training, ``[p, 2]``; none where a run holds no interactions."""
    return np.empty((0, 2), np.int64) if path is None else read_training_sequences(path).pairs()


def read_training_reviews(path: Path) -> dict[tuple[int, int], str]:
    """Text by user and item from ``reviews.parquet``."""
    return {(user, item): text for user, item, text in read_table(path, "user", "item", "text").iter_rows()}


def _sequences(interactions: pl.DataFrame) -> Sequences:
    interactions = interactions.sort("user", "position")
    users, start, lengths = np.unique(interactions["user"].to_numpy(), return_index=True, return_counts=True)
    return Sequences(users.astype(np.int64), start, start + lengths, interactions["item"].to_numpy().astype(np.int32))


def write_rows(path: Path, rows: Iterable[Row], schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> None:
    """Write a Parquet file row by row: few of them are in memory at a time."""

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = iter(rows)
        while batch := list(islice(left, _ROWS)):
            yield pl.DataFrame(batch, schema=schema)

    register_io_source(batches, schema=schema).sink_parquet(path, row_group_size=_ROW_GROUP)
