"""Read the tables of a run folder into the plain structures that later stages work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from gream.errors import GreamError


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
        for row in _read(path).sort("item").iter_rows(named=True)
    ]


def read_item_ids(path: Path) -> list[str]:
    """The dump's own id of each item of ``items.parquet``, item 0 first."""
    ids: list[str] = _read(path).sort("item")["item_id"].to_list()
    return ids


def read_sequences(path: Path) -> dict[int, list[int]]:
    """Whole chronological sequence of each user from ``interactions.parquet``, validation and test item included."""
    return _sequences(_read(path))


def read_training_sequences(path: Path) -> dict[int, list[int]]:
    """Chronological sequence of each user without the validation and the test item."""
    return _sequences(_read(path).filter(pl.col("split") == "train"))


def read_training_reviews(path: Path) -> dict[tuple[int, int], str]:
    """Text by user and item from ``reviews.parquet``."""
    return {(user, item): text for user, item, text in _read(path).select("user", "item", "text").iter_rows()}


def _sequences(interactions: pl.DataFrame) -> dict[int, list[int]]:
    grouped = interactions.sort("user", "position").group_by("user", maintain_order=True).agg("item")
    return dict(zip(grouped["user"].to_list(), grouped["item"].to_list(), strict=True))


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise GreamError(f"{path}: cannot be read as Parquet ({error})") from None
