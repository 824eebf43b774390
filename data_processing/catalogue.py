"""Stage ``items``: texts of items without any interactions, for semantic ids of a catalogue that nobody bought from."""

from __future__ import annotations

from pathlib import Path

from gream.errors import GreamError
from gream.stage import Summary

from .interaction_tables import write_items
from .interactions import InteractionsConfig
from .readers import source_of
from .readers.fields import with_text
from .readers.formats import check_format
from .readers.published import read_published_items
from .readers.rows import RowLog, left_out
from .readers.text import clean_items


def build_items(config: InteractionsConfig, metadata: Path, out: Path) -> Summary:
    """Write ``items.parquet`` of all items, numbered in order of their ids; of published ones, as they are.

    Args:
        config: Format and columns, and what becomes of rows without item or text; the rest is of no account.
        metadata: Metadata, movies, a table of items, or NAME.item.json.
        out: Existing folder to write to.

    Raises:
        GreamError: The file is unreadable, of another format, or describes no item.
    """
    check_format(metadata, config.format)
    log = RowLog(config.on_bad_row)
    if config.format == "published":
        described = read_published_items(metadata)
    else:
        described = with_text(source_of(config.format, config.columns, log).read_metadata(metadata), log).sort(
            "item_id"
        )
    if described.is_empty():
        raise GreamError(f"{metadata}: describes no item")
    items = clean_items(described)
    write_items(items, out)
    return Summary(", ".join(filter(None, (f"{len(described):,} items", items.says(), *left_out(log.skipped)))))
