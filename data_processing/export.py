"""Stage ``export``: a run in the layout in which LC-Rec, LETTER and others publish, for their code to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gream.files import jsonl_line, write_text
from gream.semantic_ids.published import read_index
from gream.tables import read_table

from .tables import read_sequences


def respell(token: str, *, bars: bool) -> str:
    """A token as ``<|a_1|>`` (with bars) or as ``<a_1>``, whichever it was."""
    name = token.strip("<|>")
    return f"<|{name}|>" if bars else f"<{name}>"


def export(name: str, *, bars: bool, interactions: Path, items: Path, index: Path | None, out: Path) -> None:
    """Write the folder ``published`` with NAME.inter.json, NAME.item.json and, where ids exist, NAME.index.json.

    Args:
        name: Of the data set.
        bars: Spell tokens ``<|a_1|>``, as GREAM does; else ``<a_1>``, as LC-Rec and most others do.
        interactions: ``interactions.parquet``; users and items keep their numbers.
        items: ``items.parquet``.
        index: ``index.json``.
        out: Existing folder to write to.

    Raises:
        GreamError: See `gream.semantic_ids.published.read_index`.
    """
    folder = out / "published"
    folder.mkdir(exist_ok=True)
    rows = read_table(items).sort("item").iter_rows(named=True)
    texts = {
        row["item"]: {
            "asin": row["item_id"],
            "title": row["title"],
            "description": row["description"],
            "brand": row["brand"],
            "categories": [row["categories"]],
        }
        for row in rows
    }
    files: dict[str, Mapping[int, Any]] = {"inter": dict(read_sequences(interactions)), "item": texts}
    if index is not None:
        files["index"] = {
            item: [respell(token, bars=bars) for token in own] for item, own in enumerate(read_index(index))
        }
    for kind, content in files.items():
        write_text(folder / f"{name}.{kind}.json", jsonl_line(content))
