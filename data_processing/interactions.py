"""Stage ``interactions``: a raw dump becomes k-core sequences, split leave-one-out, and the texts that belong to them.

The order of the filters is the method's (GREAM, experimental set-up): items without metadata go first, then every
repetition of a (user, item) pair, then users and items with too few interactions, until none is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from gream.config import Config
from gream.errors import GreamError
from gream.stage import write_json
from pydantic import Field, PositiveInt

from data_processing.readers import clean_items, read_metadata, read_review_texts, read_reviews

DUMP = "amazon-2018"

# Leave-one-out takes two interactions of each user; one at least must be left to train on.
SHORTEST_SEQUENCE = 3


class InteractionsConfig(Config):
    """Filters on the raw dump.

    Attributes:
        core: Fewest interactions of a user and of an item that stay (5-core in the paper).
        min_users: Fewest users worth going on with; fewer are an error.
    """

    core: int = Field(5, ge=SHORTEST_SEQUENCE)
    min_users: PositiveInt = 50


def build_interactions(config: InteractionsConfig, reviews: Path, metadata: Path, out: Path) -> None:
    """Write ``interactions.parquet``, ``users.parquet``, ``items.parquet``, ``reviews.parquet``, ``statistics.json``.

    Users and items are numbered in order of their ids, so the same dump always makes the same files, byte for byte.

    Args:
        config: See `InteractionsConfig`.
        reviews: Review dump.
        metadata: Metadata dump.
        out: Existing folder to write to.

    Raises:
        GreamError: A dump is unreadable, the two do not belong together, or too few users remain.
    """
    read = read_reviews(reviews)
    described = read_metadata(metadata)

    known = read.join(described, on="item_id", how="semi", maintain_order="left")
    if known.is_empty():
        raise GreamError(
            f"{metadata}: describes none of the {read['item_id'].n_unique()} items reviewed in {reviews}; "
            "take reviews and metadata of the same category and the same dump version"
        )
    distinct = first_occurrences(known)
    core = k_core(distinct, config.core)
    left = core.frame["user_id"].n_unique()
    if left < config.min_users:
        raise GreamError(
            f"{reviews}: {left} users remain after the {config.core}-core, fewer than min_users {config.min_users}; "
            "take a larger dump, or lower interactions.core or interactions.min_users"
        )

    users = core.frame.select(pl.col("user_id").unique().sort()).with_row_index("user")
    kept = core.frame.select(pl.col("item_id").unique().sort()).with_row_index("item")
    sequences = leave_one_out(_numbered(core.frame, users, kept))
    items = clean_items(kept.join(described, on="item_id", how="left", maintain_order="left"))
    texts = _training_reviews(reviews, sequences)

    _write(sequences.drop("row"), out / "interactions.parquet")
    _write(users.cast({"user": pl.Int32}), out / "users.parquet")
    _write(items.frame.with_row_index("item").cast({"item": pl.Int32}), out / "items.parquet")
    _write(texts, out / "reviews.parquet")
    write_json(
        out / "statistics.json",
        {
            "source": {"dump": DUMP, "reviews": reviews.name, "metadata": metadata.name},
            **_shape(sequences),
            "training_reviews_with_text": len(texts),
            "titles_replaced": items.titles_replaced,
            "filters": {
                "raw": _counts(read),
                "removed_without_metadata": _difference(read, known),
                "removed_repetitions": _difference(known, distinct),
                "removed_by_core": {
                    "core": config.core,
                    "rounds": core.rounds,
                    **_difference(distinct, core.frame),
                },
            },
        },
    )


def first_occurrences(reviews: pl.DataFrame) -> pl.DataFrame:
    """The earliest review of each (user, item) pair, in order of user, timestamp and input.

    Args:
        reviews: row, user_id, item_id, timestamp. Rows are distinct, so that after timestamp and input order the item
            id, the method's last tie-break, never has to decide.
    """
    return reviews.sort("user_id", "timestamp", "row").unique(["user_id", "item_id"], keep="first", maintain_order=True)


@dataclass(frozen=True)
class Core:
    """What a k-core filter left.

    Attributes:
        frame: The remaining rows, in their order.
        rounds: How many passes removed something.
    """

    frame: pl.DataFrame
    rounds: int


def k_core(interactions: pl.DataFrame, k: int) -> Core:
    """Remove users and items with fewer than ``k`` interactions until every one left has ``k``.

    The largest such subset is unique, so the order of removal does not matter.

    Args:
        interactions: user_id and item_id, each pair once.
        k: Fewest interactions.
    """
    enough = (pl.len().over("user_id") >= k) & (pl.len().over("item_id") >= k)
    rounds = 0
    while True:
        left = interactions.filter(enough)
        if len(left) == len(interactions):
            return Core(left, rounds)
        interactions = left
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
    length = pl.len().over("user")
    position = pl.int_range(pl.len(), dtype=pl.Int32).over("user")
    short = interactions.filter(length < SHORTEST_SEQUENCE)
    if not short.is_empty():
        raise GreamError(
            f"user {short['user'][0]} has fewer than {SHORTEST_SEQUENCE} interactions and cannot be split into "
            f"training, validation and test; raise interactions.core to {SHORTEST_SEQUENCE} or more"
        )
    return interactions.sort("user", maintain_order=True).with_columns(
        position.alias("position"),
        pl.when(position == length - 1)
        .then(pl.lit("test"))
        .when(position == length - 2)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
        .alias("split"),
    )


def _numbered(interactions: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    return (
        interactions.join(users, on="user_id", how="left", maintain_order="left")
        .join(items, on="item_id", how="left", maintain_order="left")
        .select("row", pl.col("user", "item").cast(pl.Int32), "timestamp")
    )


def _training_reviews(reviews: Path, sequences: pl.DataFrame) -> pl.DataFrame:
    # Only training rows are asked for: the text of a validation or test review never enters the process.
    training = sequences.filter(pl.col("split") == "train").select("row", "user", "item")
    texts = read_review_texts(reviews, training["row"])
    return training.join(texts, on="row", how="inner", maintain_order="left").drop("row")


def _write(frame: pl.DataFrame, path: Path) -> None:
    # Row groups of a fixed size: by default they follow from the number of threads.
    frame.rechunk().write_parquet(path, row_group_size=1 << 18)


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    return {
        "users": frame["user_id"].n_unique(),
        "items": frame["item_id"].n_unique(),
        "interactions": len(frame),
    }


def _difference(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, int]:
    left = _counts(after)
    return {name: count - left[name] for name, count in _counts(before).items()}


def _shape(sequences: pl.DataFrame) -> dict[str, Any]:
    users, items = sequences["user"].n_unique(), sequences["item"].n_unique()
    histogram = sequences.group_by("user").len("length").group_by("length").len("users").sort("length")
    return {
        "users": users,
        "items": items,
        "interactions": len(sequences),
        "density": len(sequences) / (users * items),
        "mean_sequence_length": len(sequences) / users,
        "sequence_lengths": {str(length): count for length, count in histogram.iter_rows()},
    }
