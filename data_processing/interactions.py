"""Stage ``interactions``: raw data becomes k-core sequences, split leave-one-out, and the texts that belong to them.

The order of the filters is the method's (GREAM, experimental set-up): items without metadata go first, then every
repetition of a (user, item) pair, then users and items with too few interactions, until none is left. Data in the
published layout has been through this; it is only split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from gream.config import Config
from gream.errors import GreamError
from gream.files import write_json, write_text
from gream.stage import Summary
from pydantic import Field, PositiveInt, model_validator

from .published import read_inter, read_item
from .readers import source_of
from .readers.fields import has_text
from .readers.files import bounded
from .readers.formats import Columns, Format, check_format
from .readers.rows import OnBadRow, RowLog
from .readers.text import CleanItems, clean_items
from .statistics_page import render_statistics

# Leave-one-out takes two interactions of each user; one at least must be left to train on.
SHORTEST_SEQUENCE = 3
# Reasoning starts at this position of a sequence (GREAM, training samples).
_REASONING_POSITION = 4

TieRule = Literal["place", "item", "random"]
_TIE_RULES: dict[TieRule, str] = {"place": "place in the dump", "item": "item id", "random": "chance, by the seed"}
# Share of targets from which on the order of one moment is said to decide a result.
_MANY_TIES = 0.05
_SECOND = 10**9
# Of interactions.parquet.
_COLUMNS = ("user", "item", "timestamp", "position", "split", "tied")


class InteractionsConfig(Config):
    """Where the interactions come from, and the filters on them.

    Attributes:
        format: Of both files.
        columns: Names of columns, where the format is ``table``.
        core: Fewest interactions of a user and of an item that stay (5-core in the paper).
        min_users: Fewest users worth going on with; fewer are an error.
        ties: What orders a user's interactions of one moment: their place in the dump, their item's id, or chance.
        on_bad_row: What becomes of a review without user, item or readable time, and of metadata without item: ``fail``
            refuses the file, ``skip`` leaves it out and counts it, as it does items without any text.
        sample_users: After all filters, keep that many users, evenly spread over the user ids, and the items they have:
            a small version of a data set, to try a whole run on. All by default.
    """

    format: Format = "amazon-2018"
    columns: Columns = Columns()
    core: int = Field(5, ge=SHORTEST_SEQUENCE)
    min_users: PositiveInt = 50
    ties: TieRule = "place"
    on_bad_row: OnBadRow = "fail"
    sample_users: PositiveInt | None = None

    @model_validator(mode="after")
    def _columns_are_read(self) -> InteractionsConfig:
        if self.columns != Columns() and self.format != "table":
            raise ValueError(f"columns are named for format 'table', not for '{self.format}'")
        return self


def build_interactions(
    config: InteractionsConfig, reviews: Path, metadata: Path, out: Path, *, seed: int = 0
) -> Summary:
    """Write the tables of a run and what they count.

    ``interactions.parquet``, ``users.parquet``, ``items.parquet``, ``reviews.parquet``, ``statistics.json`` and
    ``statistics.md``. Users and items are numbered in order of their ids, so the same dump always makes the same files,
    byte for byte; published data keeps its item numbers.

    Args:
        config: See `InteractionsConfig`.
        reviews: Reviews, ratings, a table of interactions, or NAME.inter.json.
        metadata: Metadata, movies, a table of items, or NAME.item.json.
        out: Existing folder to write to.
        seed: Of ``ties: random``.

    Returns:
        What was made, with a warning where the order within one moment decides many targets.

    Raises:
        GreamError: A file is unreadable or of another format, the two do not belong together, or too few users remain.
    """
    for path in (reviews, metadata):
        check_format(path, config.format)
    if config.format == "published":
        return _import_published(config, reviews, metadata, out)
    log = RowLog(config.on_bad_row)
    source = source_of(config.format, config.columns, log)
    described = source.read_metadata(metadata)
    if config.on_bad_row == "skip" and not (said := has_text(described)).all():
        log.skipped["items without any text"] = int((~said).sum())
        described = described.filter(said)
    raw = source.read_reviews(reviews)
    made = make_sequences(raw, described["item_id"], config.core, config.ties, seed)
    if not made.counts["with_metadata"]["interactions"]:
        of = "category and the same dump version" if config.format.startswith("amazon") else "shop"
        raise GreamError(
            f"{metadata}: describes none of the {made.counts['raw']['items']} items reviewed in {reviews}: ids there "
            f"look like {_some(raw['item_id'])}, here like {_some(described['item_id'])}; take both of the same {of}"
        )
    if len(made.users) < config.min_users:
        raise GreamError(
            f"{reviews}: {len(made.users)} users remain after the {config.core}-core, fewer than min_users "
            f"{config.min_users}; take a larger dump, or lower interactions.core or interactions.min_users"
        )
    if config.sample_users is not None:
        frame, users, kept_items = _sampled(made.frame, made.users, config.sample_users)
        made = replace(made, frame=frame, users=users, items=made.items.gather(kept_items))
    items = clean_items(made.items.to_frame("item_id").join(described, on="item_id", how="left", maintain_order="left"))
    # Only training rows are asked for: the text of a validation or test review never enters the process.
    training = made.frame.filter(pl.col("split") == "train").select("row", "user", "item")
    texts = source.read_review_texts(reviews, training["row"])
    texts = training.join(texts, on="row", how="inner", maintain_order="left").drop("row")
    first, last = made.frame["timestamp"].min(), made.frame["timestamp"].max()
    counts, ties = made.counts, _ties(made.frame, config.ties)
    return _write_tables(
        out,
        made.frame,
        made.users,
        items,
        texts,
        {
            "source": {**_source(config, reviews, metadata), "first": _date(first), "last": _date(last)},
            **_shape(made.frame),
            "ties": ties,
            "training_reviews_with_text": len(texts),
            **items.statistics(),
            "metadata_rows_merged": log.merged,
            **({"rows_skipped": log.skipped} if log.on_bad_row == "skip" else {}),
            "filters": {
                "raw": counts["raw"],
                "removed_without_metadata": _difference(counts["raw"], counts["with_metadata"]),
                "removed_repetitions": _difference(counts["with_metadata"], counts["distinct"]),
                "removed_by_core": {
                    "core": config.core,
                    "rounds": made.rounds,
                    **_difference(counts["distinct"], counts["core"]),
                },
            },
        },
    )


def _some(ids: pl.Series) -> str:
    return ", ".join(f"'{bounded(item, 40)}'" for item in ids.head(2))


def _ties(sequences: pl.DataFrame, rule: TieRule) -> dict[str, Any]:
    """How many targets share their moment with a neighbour, so that a rule decides what they are."""
    found: dict[str, Any] = {"rule": _TIE_RULES[rule]}
    for split, name in (("valid", "validation"), ("test", "test")):
        tied = sequences.filter(pl.col("split") == split)["tied"]
        found[f"{name}_targets"] = int(tied.sum())
        found[f"{name}_share"] = found[f"{name}_targets"] / len(tied)
    return found


def _warnings(ties: dict[str, Any] | None) -> tuple[str, ...]:
    """What of the ties will disappoint later."""
    if ties is None or max(ties["test_share"], ties["validation_share"]) <= _MANY_TIES:
        return ()
    return (
        f"{ties['test_share']:.0%} of the test and {ties['validation_share']:.0%} of the validation targets share "
        f"their time with a neighbour: what decides is {ties['rule']} (interactions.ties); evaluate with "
        "--split test-untied (baselines: --untied) to leave such targets out",
    )


def _import_published(config: InteractionsConfig, inter: Path, item: Path, out: Path) -> Summary:
    """The same tables from finished sequences: no filter, nothing renumbered, no times and no reviews."""
    published = read_inter(inter)
    metadata = read_item(item)
    names = list(published)
    if set(names) == {str(number) for number in range(len(names))}:
        names.sort(key=int)
    lengths = [len(published[name]) for name in names]
    largest = max(max(items, default=0) for items in published.values())
    if largest >= len(metadata):
        found = bounded(str(largest), 40) if largest < 1 << 99 else "a number without end"
        raise GreamError(f"{item}: describes items 0 to {len(metadata) - 1}, but {inter} has item {found}")
    frame = pl.DataFrame({"user": np.repeat(np.arange(len(names), dtype=np.int32), lengths)}).with_columns(
        pl.Series("item", [number for name in names for number in published[name]], dtype=pl.Int32),
        pl.lit(None, pl.Int64).alias("timestamp"),
        pl.lit(None, pl.Boolean).alias("tied"),
    )
    if len(names) < config.min_users:
        raise GreamError(f"{inter}: holds {len(names)} users, fewer than min_users {config.min_users}")
    sequences, users = leave_one_out(frame), pl.Series(names)
    if config.sample_users is not None:
        sequences, users, kept_items = _sampled(sequences, users, config.sample_users)
        metadata = metadata[kept_items]
    items = clean_items(metadata)
    texts = pl.DataFrame(schema={"user": pl.Int32, "item": pl.Int32, "text": pl.String})
    return _write_tables(
        out,
        sequences,
        users,
        items,
        texts,
        {
            "source": _source(config, inter, item),
            **_shape(sequences),
            "training_reviews_with_text": 0,
            **items.statistics(),
            # Published sequences stay as they are, or results on them could not be compared.
            "repetitions_kept": len(sequences) - sequences.select("user", "item").n_unique(),
            "items_without_interaction": len(metadata) - sequences["item"].n_unique(),
        },
    )


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
    reviews: pl.DataFrame, described: pl.Series, core: int, ties: TieRule = "place", seed: int = 0
) -> Sequences:
    """Filter, order, number and split reviews by the method's rules.

    Args:
        reviews: As `Source.read_reviews` returns them.
        described: Ids of the items that have metadata.
        core: Fewest interactions of a user and of an item that stay.
        ties: What orders the interactions of one moment.
        seed: Of ``random`` ties.
    """
    # Small whole numbers from here on: ids as text would be compared and copied at every step.
    users, user_codes = _encoded(reviews["user_id"])
    items, item_codes = _encoded(reviews["item_id"])
    raw = pl.DataFrame([reviews["row"], user_codes.alias("user"), item_codes.alias("item"), reviews["timestamp"]])
    has_metadata = items.is_in(described.implode())
    known = raw if has_metadata.all() else raw.filter(has_metadata.gather(item_codes))
    distinct = first_occurrences(known, ties, seed)
    left = k_core(distinct, core)
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


def _sampled(sequences: pl.DataFrame, users: pl.Series, count: int) -> tuple[pl.DataFrame, pl.Series, np.ndarray]:
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


def k_core(interactions: pl.DataFrame, k: int) -> Core:
    """Remove users and items with fewer than ``k`` interactions until every one left has ``k``.

    The largest such subset is unique, so the order of removal does not matter.

    Args:
        interactions: user and item as whole numbers from 0, each pair once.
        k: Fewest interactions.
    """
    users, items = (interactions[name].to_numpy() for name in ("user", "item"))
    rows = np.arange(len(interactions))
    rounds = 0
    while True:
        enough = (np.bincount(users) >= k)[users] & (np.bincount(items) >= k)[items]
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


def _write_tables(
    out: Path,
    sequences: pl.DataFrame,
    users: pl.Series,
    items: CleanItems,
    texts: pl.DataFrame,
    statistics: dict[str, Any],
) -> Summary:
    _write(sequences.select(_COLUMNS), out / "interactions.parquet")
    _write(users.to_frame("user_id").with_row_index("user").cast({"user": pl.Int32}), out / "users.parquet")
    _write(items.frame.with_row_index("item").cast({"item": pl.Int32}), out / "items.parquet")
    _write(texts, out / "reviews.parquet")
    write_json(out / "statistics.json", statistics)
    write_text(out / "statistics.md", render_statistics(statistics))
    counted = ", ".join(f"{statistics[name]:,} {name}" for name in ("users", "items", "interactions"))
    skipped = [f"{count:,} {reason} left out" for reason, count in statistics.get("rows_skipped", {}).items()]
    return Summary(", ".join(filter(None, (counted, items.says(), *skipped))), _warnings(statistics.get("ties")))


def _write(frame: pl.DataFrame, path: Path) -> None:
    # Row groups of a fixed size: by default they follow from the number of threads.
    frame.rechunk().write_parquet(path, row_group_size=1 << 18)


def _source(config: InteractionsConfig, reviews: Path, metadata: Path) -> dict[str, str]:
    return {"dump": config.format, "reviews": reviews.name, "metadata": metadata.name}


def _date(seconds: Any) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    users, items = (int(np.count_nonzero(np.bincount(frame[name].to_numpy()))) for name in ("user", "item"))
    return {"users": users, "items": items, "interactions": len(frame)}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - after[name] for name, count in before.items()}


def _shape(sequences: pl.DataFrame) -> dict[str, Any]:
    users, items = sequences["user"].n_unique(), sequences["item"].n_unique()
    histogram = sequences.group_by("user").len("length").group_by("length").len("users").sort("length")
    training = sequences.filter(pl.col("split") == "train")["position"]
    return {
        "users": users,
        "items": items,
        "interactions": len(sequences),
        "density": len(sequences) / (users * items),
        "mean_sequence_length": len(sequences) / users,
        "sequence_lengths": {str(length): count for length, count in histogram.iter_rows()},
        "splits": {"train": len(training), "valid": users, "test": users},
        "training_targets": {
            "with_history": int((training > 0).sum()),
            f"at_position_{_REASONING_POSITION}_or_later": int((training >= _REASONING_POSITION).sum()),
        },
    }
