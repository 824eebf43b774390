"""From raw interactions to sequences, by the method's rules: arrays and tables in, arrays and tables out, no file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from gream.errors import GreamError

# Leave-one-out takes two interactions of each user; one at least must be left to train on.
SHORTEST_SEQUENCE = 3
_SECOND = 10**9

TieRule = Literal["place", "item", "random"]


@dataclass(frozen=True)
class Sequences:
    """What the filters left of a dump.

    Attributes:
        frame: row, user, item (int32), timestamp (seconds since 1970), tied (whether another interaction of the user
            has the same time, to the finest unit that the file knows), position (int32), split; in order of user and
            position.
        users: Id of each user, user 0 first.
        items: Id of each item, item 0 first.
        rounds: How many passes of the core removed something.
        counts: Users, items and interactions: raw, with_metadata, distinct, core.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    rounds: int
    counts: dict[str, dict[str, int]]


def make_sequences(
    reviews: pl.DataFrame,
    described: pl.Series,
    core: int,
    ties: TieRule = "place",
    seed: int = 0,
    *,
    item_core: int | None = None,
) -> Sequences:
    """Filter, order, number and split reviews by the method's rules.

    Args:
        reviews: As `Source.read_reviews` returns them.
        described: Ids of the items that have metadata.
        core: Fewest interactions of a user that stay.
        ties: What orders the interactions of one moment.
        seed: Of ``random`` ties.
        item_core: Fewest interactions of an item that stay; ``core`` by default.
    """
    # Small whole numbers from here on: ids as text would be compared and copied at every step.
    users, user_codes = _encoded(reviews["user_id"])
    items, item_codes = _encoded(reviews["item_id"])
    raw = pl.DataFrame([reviews["row"], user_codes.alias("user"), item_codes.alias("item"), reviews["timestamp"]])
    has_metadata = items.is_in(described.implode())
    known = raw if has_metadata.all() else raw.filter(has_metadata.gather(item_codes))
    distinct = first_occurrences(known, ties, seed)
    left = k_core(distinct, core, item_core)
    kept_users, user_numbers = _renumbered(left.frame["user"])
    kept_items, item_numbers = _renumbered(left.frame["item"])
    numbered = left.frame.with_columns(
        user_numbers, item_numbers, pl.col("timestamp") // _SECOND, _tied(left.frame).alias("tied")
    ).select("row", "user", "item", "timestamp", "tied")
    frames = {"raw": raw, "with_metadata": known, "distinct": distinct, "core": left.frame}
    return Sequences(
        leave_one_out(numbered),
        users.gather(kept_users),
        items.gather(kept_items),
        left.rounds,
        {name: _counts(frame) for name, frame in frames.items()},
    )


def _encoded(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The distinct ids in order, and for each id its place among them (uint32)."""
    distinct = ids.unique().sort()
    return distinct, ids.cast(pl.Enum(distinct)).to_physical().cast(pl.UInt32)


def _renumbered(codes: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """The distinct codes in order, and for each code its place among them (int32)."""
    present = np.bincount(codes.to_numpy()) > 0
    place = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(present), pl.Series(codes.name, place[codes.to_numpy()])


def sample_users(sequences: pl.DataFrame, users: pl.Series, count: int) -> tuple[pl.DataFrame, pl.Series, np.ndarray]:
    """The sequences of ``count`` users, evenly spread, numbered anew; their users' ids; the numbers of their items."""
    chosen = np.unique(np.linspace(0, len(users) - 1, count).round().astype(np.int32))
    left = sequences.filter(pl.col("user").is_in(chosen.tolist()))
    kept_users, user_numbers = _renumbered(left["user"])
    kept_items, item_numbers = _renumbered(left["item"])
    return left.with_columns(user_numbers, item_numbers), users.gather(kept_users), kept_items


def first_occurrences(reviews: pl.DataFrame, ties: TieRule = "place", seed: int = 0) -> pl.DataFrame:
    """The earliest review of each (user, item) pair, in order of user, timestamp and the rule for ties.

    Args:
        reviews: row, user, item (uint32), timestamp (int64, nanoseconds), in order of row.
        ties: What orders the reviews of one moment; after it, the order of input does.
        seed: Of ``random`` ties, which do not depend on the order of input.
    """
    rule = {"place": reviews["row"], "item": reviews["item"]}.get(ties)
    if rule is None:
        rule = pl.Series(_drawn(reviews["user"].to_numpy(), reviews["item"].to_numpy(), seed))
    # User (31 bits), timestamp (64) and rule (32) in one number: sorted in half the time that three columns take.
    moment = pl.col("timestamp").cast(pl.Int128) + (1 << 63)
    order = pl.col("user").cast(pl.Int128) * (1 << 96) + moment * (1 << 32) + rule.cast(pl.Int128)
    pair = pl.col("user").cast(pl.UInt64) * (1 << 32) + pl.col("item")
    # Rows are distinct, and sorting by them need not be stable.
    return reviews.sort(order, maintain_order=ties != "place").filter(pair.is_first_distinct())


def _drawn(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """A number (uint32) for each pair that looks random and depends on pair and seed alone (SplitMix64's mixing)."""
    mixed = users.astype(np.uint64) << np.uint64(32) | items.astype(np.uint64)
    mixed ^= np.random.default_rng(seed).integers(1 << 63, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _tied(ordered: pl.DataFrame) -> pl.Series:
    """Where an interaction shares user and timestamp with the one before or after it."""
    same = (pl.col("user") == pl.col("user").shift()) & (pl.col("timestamp") == pl.col("timestamp").shift())
    before = ordered.select(same.fill_null(False)).to_series()
    return before | before.shift(-1, fill_value=False)


@dataclass(frozen=True)
class Core:
    """What a k-core filter left.

    Attributes:
        frame: The remaining rows, in their order.
        rounds: How many passes removed something.
    """

    frame: pl.DataFrame
    rounds: int


def k_core(interactions: pl.DataFrame, k: int, item_k: int | None = None) -> Core:
    """Remove users with fewer than ``k`` and items with fewer than ``item_k`` interactions until none is left.

    The largest such subset is unique, so the order of removal does not matter.

    Args:
        interactions: user and item as whole numbers from 0, each pair once.
        k: Fewest interactions of a user.
        item_k: Fewest interactions of an item; ``k`` by default.
    """
    users, items = (interactions[name].to_numpy() for name in ("user", "item"))
    rows = np.arange(len(interactions))
    rounds = 0
    while True:
        enough = (np.bincount(users) >= k)[users] & (np.bincount(items) >= (item_k or k))[items]
        if enough.all():
            return Core(interactions[rows] if rounds else interactions, rounds)
        users, items, rows = users[enough], items[enough], rows[enough]
        rounds += 1


def leave_one_out(interactions: pl.DataFrame) -> pl.DataFrame:
    """Add position and split: the last interaction of a user is test, the one before it valid, the rest train.

    Args:
        interactions: user, chronological within each user.

    Returns:
        The rows in order of user and time, with two more columns: position (int32, from 0) and split.

    Raises:
        GreamError: A user has fewer than three interactions.
    """
    users = interactions["user"]
    if not users.is_sorted():
        interactions = interactions.sort("user", maintain_order=True)
        users = interactions["user"]
    lengths = np.bincount(users.to_numpy())
    short = np.flatnonzero((lengths > 0) & (lengths < SHORTEST_SEQUENCE))
    if len(short):
        raise GreamError(
            f"user {short[0]} has fewer than {SHORTEST_SEQUENCE} interactions and cannot be split into "
            f"training, validation and test; raise interactions.core to {SHORTEST_SEQUENCE} or more"
        )
    ends = np.cumsum(lengths)
    rows = np.arange(len(interactions))
    position = rows - np.repeat(ends - lengths, lengths)
    to_come = np.repeat(ends, lengths) - 1 - rows
    return interactions.with_columns(
        pl.Series("position", position, dtype=pl.Int32),
        pl.Series("split", ["test", "valid", "train"], dtype=pl.String).gather(np.minimum(to_come, 2)),
    )


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    users, items = (int(np.count_nonzero(np.bincount(frame[name].to_numpy()))) for name in ("user", "item"))
    return {"users": users, "items": items, "interactions": len(frame)}
