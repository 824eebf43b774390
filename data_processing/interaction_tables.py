"""The tables of interactions that every later stage reads, and what they count; made of a dump or imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from gream.files import write_json, write_text
from gream.stage import Summary

from .readers.formats import Format
from .readers.rows import left_out
from .readers.text import CleanItems
from .statistics_page import render_statistics

# Reasoning starts at this position of a sequence (GREAM, training samples).
_REASONING_POSITION = 4
# Share of interactions of unknown items from which on it is said that ids may be written in two ways.
_MANY_LOST = 0.05
# Share of targets from which on the order of one moment is said to decide a result.
_MANY_TIES = 0.05
# Of interactions.parquet.
_COLUMNS = ("user", "item", "timestamp", "position", "split", "tied")


def source_files(name: Format, reviews: Path, metadata: Path) -> dict[str, str]:
    """What the tables were made of, for the statistics."""
    return {"dump": name, "reviews": reviews.name, "metadata": metadata.name}


def shape_of(sequences: pl.DataFrame) -> dict[str, Any]:
    """Size of a data set and of its splits, for the statistics."""
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


def write_tables(
    out: Path,
    sequences: pl.DataFrame,
    users: pl.Series,
    items: CleanItems,
    texts: pl.DataFrame,
    statistics: dict[str, Any],
) -> Summary:
    """Write ``interactions.parquet``, ``users.parquet``, ``items.parquet``, ``reviews.parquet`` and the statistics.

    Args:
        out: Existing folder to write to.
        sequences: user, item, timestamp, position, split, tied; in order of user and position.
        users: Id of each user, user 0 first.
        items: Texts of the items, item 0 first.
        texts: user, item, text of training reviews.
        statistics: For ``statistics.json`` and ``statistics.md``.
    """
    _write(sequences.select(_COLUMNS), out / "interactions.parquet")
    _write(users.to_frame("user_id").with_row_index("user").cast({"user": pl.Int32}), out / "users.parquet")
    write_items(items, out)
    _write(texts, out / "reviews.parquet")
    write_json(out / "statistics.json", statistics)
    write_text(out / "statistics.md", render_statistics(statistics))
    counted = ", ".join(f"{statistics[name]:,} {name}" for name in ("users", "items", "interactions"))
    skipped = left_out(statistics.get("rows_skipped", {}))
    lost = _without_metadata(statistics)[0]
    unknown = f"{lost:,} interactions of items without metadata left out" if lost else ""
    return Summary(", ".join(filter(None, (counted, items.says(), unknown, *skipped))), _warnings(statistics))


def write_items(items: CleanItems, out: Path) -> None:
    """Write ``items.parquet``, numbered from 0 in the order given."""
    _write(items.frame.with_row_index("item").cast({"item": pl.Int32}), out / "items.parquet")


def _write(frame: pl.DataFrame, path: Path) -> None:
    # Row groups of a fixed size: by default they follow from the number of threads.
    frame.rechunk().write_parquet(path, row_group_size=1 << 18)


def _without_metadata(statistics: dict[str, Any]) -> tuple[int, int]:
    """Interactions of items without metadata, and all that the file holds; zeros where nothing was filtered."""
    filters = statistics.get("filters")
    if filters is None:
        return 0, 0
    return filters["removed_without_metadata"]["interactions"], filters["raw"]["interactions"]


def _warnings(statistics: dict[str, Any]) -> tuple[str, ...]:
    """What of times, ties and lost items will disappoint later."""
    found = []
    lost, all_ = _without_metadata(statistics)
    if lost > _MANY_LOST * all_:
        found.append(
            f"{lost / all_:.0%} of the interactions are of items that the metadata do not hold; see whether both files "
            "write item ids alike, zeros in front and capital letters included"
        )
    source, ties = statistics["source"], statistics.get("ties")
    if source.get("first", "").startswith("1970") and source["last"].startswith("1970"):
        found.append(
            f"all times lie between {source['first']} and {source['last']}: they count something else than seconds "
            "since 1970, such as days or places in a list; where they count upwards their order holds, and their dates "
            "mean nothing; where they are dates, set interactions.columns.time_format"
        )
    if ties is not None and max(ties["test_share"], ties["validation_share"]) > _MANY_TIES:
        found.append(
            f"{ties['test_share']:.0%} of the test and {ties['validation_share']:.0%} of the validation targets share "
            f"their time with a neighbour: what decides is {ties['rule']} (interactions.ties); evaluate with "
            "--split test-untied (baselines: --untied) to leave such targets out"
        )
    return tuple(found)
