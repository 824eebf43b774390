"""A recipe that fits a shop: fewest interactions that stay, codes for its ids, how much a first look takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from gream.config import read_yaml
from gream.errors import GreamError
from gream.recipes import find_recipe

from ..readers.rows import RowLog
from ..readers.table import Table
from ..sequences import SHORTEST_SEQUENCE, first_occurrences, k_core
from .look import Look

# Fewest interactions of a user and of an item, the paper's first; the last that keep most customers are taken.
_CORES = ((5, 5), (5, 3), (4, 2), (3, 2), (3, 1))
_MOST_CUSTOMERS = 0.8
# Customers of a first look: what two CPU cores take to the end in some minutes.
_FIRST_LOOK = 2000
# Ids that could be, for each that is: with as many, few items share an id before one of them is moved.
_SPARE = 16
_LEVELS = 3
_CODES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Sizes:
    """What a recipe is fitted to.

    Attributes:
        customers: With three products and more.
        products: That they bought.
        first: Day of the earliest order.
        last: Day of the latest order.
        unusable: Rows left out, by reason.
        core: Fewest interactions of a customer that stays.
        item_core: Fewest interactions of a product that stays.
        kept_customers: How many stay.
        kept_products: How many stay.
    """

    customers: int
    products: int
    first: date
    last: date
    unusable: dict[str, int]
    core: int
    item_core: int
    kept_customers: int
    kept_products: int

    def lines(self) -> list[str]:
        """The same for people."""
        return [
            f"orders from {self.first} to {self.last}",
            f"taken: {self.kept_customers:,} of {self.customers:,} customers and {self.kept_products:,} of "
            f"{self.products:,} products, those with {self.core} and {self.item_core} orders or more",
            *(f"left out: {count:,} rows {reason}" for reason, count in self.unusable.items()),
        ]


def measure_shop(look: Look) -> Sizes:
    """Read both tables whole and choose the core.

    Raises:
        GreamError: A table cannot be read, or nobody has three products.
    """
    log = RowLog("skip")
    source = Table(look.columns, log=log)
    described = source.read_metadata(look.products.path)["item_id"]
    orders = source.read_reviews(look.orders.path)
    known = orders.filter(pl.col("item_id").is_in(described.implode()))
    pairs = known.with_columns(
        pl.col("user_id").rank("dense").cast(pl.UInt32).alias("user"),
        pl.col("item_id").rank("dense").cast(pl.UInt32).alias("item"),
    ).select("row", "user", "item", "timestamp")
    distinct = first_occurrences(pairs)
    able = k_core(distinct, SHORTEST_SEQUENCE, 1).frame
    if able.is_empty():
        raise GreamError(
            f"{look.orders.path}: no customer has {SHORTEST_SEQUENCE} different products that {look.products.path} "
            "describes: there is nothing to learn an order from"
        )
    customers = able["user"].n_unique()
    for core, item_core in _CORES:
        kept = k_core(distinct, core, item_core).frame
        if kept["user"].n_unique() >= _MOST_CUSTOMERS * customers:
            break
    unusable = dict(log.skipped)
    if len(known) < len(orders):
        unusable["of a product that is not described"] = len(orders) - len(known)
    return Sizes(
        customers,
        able["item"].n_unique(),
        _day(orders["timestamp"].min()),
        _day(orders["timestamp"].max()),
        unusable,
        core,
        item_core,
        kept["user"].n_unique(),
        kept["item"].n_unique(),
    )


def _day(nanoseconds: Any) -> date:
    # Not by fromtimestamp, which knows no times before 1970 everywhere.
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)).date()


def codes_for(items: int) -> tuple[int, int]:
    """Levels and codes per level of ids for that many items: `_SPARE` times as many ids as items, or more."""
    size = next((size for size in _CODES if size**_LEVELS >= _SPARE * items), _CODES[-1])
    return (_LEVELS if size**_LEVELS >= _SPARE * items else _LEVELS + 1), size


def shared_ids(items: int, levels: int, size: int) -> float:
    """Share of items that would share an id with another one, if ids were drawn at random: the least to expect."""
    return -math.expm1(-(items - 1) / size**levels)


def write_recipe(path: Path, look: Look, sizes: Sizes) -> None:
    """Write a data recipe, complete and with its reasons, for `sizes`.

    Args:
        path: New file.
        look: What the tables hold.
        sizes: See `measure_shop`.
    """
    base = read_yaml(find_recipe("data", "quickstart"))
    for section in ("synthesize", "interactions", "semantic_ids"):
        base.pop(section, None)
    levels, size = codes_for(sizes.kept_products)
    shared = shared_ids(sizes.kept_products, levels, size)
    interactions: dict[str, object] = {
        "format": "table",
        "columns": look.columns.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "core": sizes.core,
        "item_core": sizes.item_core,
        "min_users": 1,
        "on_bad_row": "skip",
    }
    if sizes.kept_customers > _FIRST_LOOK:
        interactions["sample_users"] = _FIRST_LOOK
    ids = {"levels": levels, "codebook_size": size, "balanced": True, "collisions": "reassign", "restarts": 4}
    notes = {
        "interactions": [
            f"Orders from {sizes.first} to {sizes.last}.",
            f"{sizes.customers:,} customers bought 3 products or more, {sizes.products:,} products in all.",
            f"Those with {sizes.core} and more, and products bought {sizes.item_core} times and more, are "
            f"{sizes.kept_customers:,} and {sizes.kept_products:,}.",
            *[f"Left out: {count:,} rows {reason}." for reason, count in sizes.unusable.items()],
            *(["sample_users: a first look; delete the line to take all."] if "sample_users" in interactions else []),
        ],
        "semantic_ids": [
            f"{levels} levels of {size} codes: {size**levels:,} ids for {sizes.kept_products:,} products. By chance "
            f"{shared:.1%} of the products",
            "would share one at first, products of like texts more; one of them then gets another last level.",
        ],
    }
    parts = [f"# {look.orders.path.name} and {look.products.path.name}, for a first look on two CPU cores.", ""]
    for section, values in {"interactions": interactions, "semantic_ids": ids, **base}.items():
        parts += [f"# {note}" for note in notes.get(section, ())]
        parts.append(yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")
