"""Stage ``interactions``: raw data becomes k-core sequences, split leave-one-out, and the texts that belong to them.

The order of the filters is the method's (GREAM, experimental set-up): items without metadata go first, then every
repetition of a (user, item) pair, then users and items with too few interactions, until none is left. Data in the
published layout has been through this: `import_published` splits it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from gream.config import Config
from gream.errors import GreamError
from gream.stage import Summary
from pydantic import Field, PositiveInt, model_validator

from .interaction_tables import shape_of, source_files, write_tables
from .readers import source_of
from .readers.fields import with_text
from .readers.files import bounded
from .readers.formats import Columns, Format, check_format
from .readers.rows import OnBadRow, RowLog
from .readers.text import clean_items
from .sequences import SHORTEST_SEQUENCE, TieRule, make_sequences, sample_users

_TIE_RULES: dict[TieRule, str] = {"place": "place in the dump", "item": "item id", "random": "chance, by the seed"}


class InteractionsConfig(Config):
    """Where the interactions come from, and the filters on them.

    Attributes:
        format: Format of both raw files.
        columns: Names of columns, where the format is ``table``.
        core: Fewest interactions of a user and of an item that stay (5-core in the paper).
        item_core: Fewest interactions of an item, where that should differ from a user's; as `core` by default.
        min_users: Fewest users after all filters; fewer are an error.
        ties: What orders a user's interactions of one moment: place in the dump, item id, or chance by the seed.
        on_bad_row: What becomes of a review without user, item or readable time, and of metadata without item: ``fail``
            refuses the file, ``skip`` leaves it out and counts it, as it does items without any text.
        sample_users: After all filters, keep that many users, evenly spread over the user ids, and the items they have:
            a small version of a data set, to try a whole run on. All by default.
    """

    format: Format = "amazon-2018"
    columns: Columns = Columns()
    core: int = Field(5, ge=SHORTEST_SEQUENCE)
    item_core: PositiveInt | None = None
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
    byte for byte.

    Args:
        config: See `InteractionsConfig`.
        reviews: Reviews, ratings, or a table of interactions.
        metadata: Metadata, movies, or a table of items.
        out: Existing folder to write to.
        seed: Of ``ties: random``.

    Returns:
        What was made, with a warning where the order within one moment decides many targets.

    Raises:
        GreamError: A file is unreadable or of another format, the two do not belong together, or too few users remain.
    """
    for path in (reviews, metadata):
        check_format(path, config.format)
    log = RowLog(config.on_bad_row)
    source = source_of(config.format, config.columns, log)
    described = with_text(source.read_metadata(metadata), log)
    raw = source.read_reviews(reviews)
    item_core = config.item_core or config.core
    made = make_sequences(raw, described["item_id"], config.core, config.ties, seed, item_core=item_core)
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
        frame, users, kept_items = sample_users(made.frame, made.users, config.sample_users)
        made = replace(made, frame=frame, users=users, items=made.items.gather(kept_items))
    items = clean_items(made.items.to_frame("item_id").join(described, on="item_id", how="left", maintain_order="left"))
    # Only training rows are asked for: the text of a validation or test review never enters the process.
    training = made.frame.filter(pl.col("split") == "train").select("row", "user", "item")
    texts = source.read_review_texts(reviews, training["row"])
    texts = training.join(texts, on="row", how="inner", maintain_order="left").drop("row")
    first, last = made.frame["timestamp"].min(), made.frame["timestamp"].max()
    counts, ties = made.counts, _ties(made.frame, config.ties)
    return write_tables(
        out,
        made.frame,
        made.users,
        items,
        texts,
        {
            "source": {**source_files(config.format, reviews, metadata), "first": _date(first), "last": _date(last)},
            **shape_of(made.frame),
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
                    "item_core": item_core,
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


def _date(seconds: Any) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - after[name] for name, count in before.items()}
