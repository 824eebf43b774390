"""Stage ``interactions`` on data in the published layout: finished sequences are split, and stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from gream.errors import GreamError
from gream.stage import Summary

from .interaction_tables import shape_of, source_files, write_tables
from .interactions import InteractionsConfig
from .readers.files import bounded
from .readers.formats import check_format
from .readers.published import read_published_items, read_published_sequences
from .readers.text import clean_items
from .sequences import SHORTEST_SEQUENCE, leave_one_out, sample_users


def import_published(config: InteractionsConfig, inter: Path, item: Path, out: Path) -> Summary:
    """Write the tables of `interactions.build_interactions` from finished sequences.

    Nothing is filtered or renumbered; there are no times and no reviews.

    Args:
        config: See `InteractionsConfig`; filters are of no account.
        inter: NAME.inter.json or NAME.sequences.jsonl.
        item: NAME.item.json or NAME.item2id.
        out: Existing folder to write to.

    Raises:
        GreamError: A file is unreadable or of another format, the two do not belong together, a user has fewer than
            three items, or users are too few.
    """
    for path in (inter, item):
        check_format(path, "published")
    published = read_published_sequences(inter)
    metadata = read_published_items(item)
    names = list(published)
    if set(names) == {str(number) for number in range(len(names))}:
        names.sort(key=int)
    lengths = [len(published[name]) for name in names]
    short = [name for name in names if len(published[name]) < SHORTEST_SEQUENCE]
    if short:
        # Not left out: results on other users than those published could not be compared.
        raise GreamError(
            f"{inter}: user '{bounded(short[0], 40)}' has {len(published[short[0]])} items, and training, validation "
            f"and test take {SHORTEST_SEQUENCE}; remove the users with fewer from the file, {len(short):,} in all"
        )
    largest = max(max(items) for items in published.values())
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
        sequences, users, kept_items = sample_users(sequences, users, config.sample_users)
        metadata = metadata[kept_items]
    items = clean_items(metadata)
    texts = pl.DataFrame(schema={"user": pl.Int32, "item": pl.Int32, "text": pl.String})
    return write_tables(
        out,
        sequences,
        users,
        items,
        texts,
        {
            "source": source_files("published", inter, item),
            **shape_of(sequences),
            "training_reviews_with_text": 0,
            **items.statistics(),
            # Published sequences stay as they are, or results on them could not be compared.
            "repetitions_kept": len(sequences) - sequences.select("user", "item").n_unique(),
            "items_without_interaction": len(metadata) - sequences["item"].n_unique(),
        },
    )
