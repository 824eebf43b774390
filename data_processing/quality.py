"""Stage ``quality``: the report on ids as they are, whoever made them, with as much of the run as there is."""

from __future__ import annotations

from pathlib import Path

from gream.errors import GreamError
from gream.files import write_json, write_text
from gream.semantic_ids.embeddings import read_embeddings
from gream.semantic_ids.published import index_codes, read_index
from gream.semantic_ids.quality import id_quality
from gream.semantic_ids.quality_page import quality_page
from gream.stage import Summary

from .tables import read_items, training_pairs


def build_quality(
    index: Path, items: Path | None, interactions: Path | None, embeddings: Path | None, out: Path
) -> Summary:
    """Write ``index_quality.json`` and ``index_quality.html``.

    Args:
        index: ``index.json`` of anybody, plain or gzip'd; items may share ids.
        items: ``items.parquet``, for the purity of categories.
        interactions: ``interactions.parquet``, for neighbours.
        embeddings: ``embeddings.safetensors``, for the error.
        out: Folder written to.

    Raises:
        GreamError: A file cannot be read, or is of another catalogue than ``index``.
    """
    codes = index_codes(read_index(index))
    catalogue = None if items is None else read_items(items)
    if catalogue is not None and len(catalogue) != len(codes):
        raise GreamError(
            f"{index}: has {len(codes)} items, but {items} {len(catalogue)}; take the run of the same data"
        )
    pairs = training_pairs(interactions)
    if pairs.max(initial=-1) >= len(codes):
        raise GreamError(f"{index}: has {len(codes)} items, but {interactions} names item {pairs.max()}")
    # Last, so that vectors are not blamed where the ids are of another catalogue.
    vectors = None if embeddings is None else read_embeddings(embeddings, len(codes), items or index)
    report = id_quality(
        codes,
        # A level has as many codes as its tokens count, from 0 or from 1.
        [int(column.max()) + (1 if (column == 0).any() else 0) for column in codes.T],
        embeddings=vectors,
        categories=[] if catalogue is None else [item.category for item in catalogue],
        pairs=pairs,
    )
    write_json(out / "index_quality.json", report)
    write_text(out / "index_quality.html", quality_page(report))
    used = " x ".join(f"{level['used']} of {level['size']}" for level in report["per_level"])
    sharing = report["collisions"]["items_sharing"]
    return Summary(f"{len(codes):,} items, codes used {used}, {sharing:,} items share their id with another")
