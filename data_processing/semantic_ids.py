"""Stage ``semantic-ids``: embeddings to unique ids, with the codebook and a quality report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gream.errors import GreamError
from gream.files import write_json, write_text
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.collisions import Policy, resolve_collisions
from gream.semantic_ids.embeddings import read_embeddings
from gream.semantic_ids.kmeans import Codebook, Codes, Floats, fit_residual_kmeans
from gream.semantic_ids.published import index_codes
from gream.semantic_ids.quality import quality_report
from gream.semantic_ids.quality_page import quality_page
from gream.semantic_ids.vocabulary import level_token
from gream.stage import Summary

from .config import SemanticIdsConfig
from .tables import read_item_ids, read_items, training_pairs


def build_semantic_ids(
    config: SemanticIdsConfig,
    seed: int,
    embeddings: Path,
    items: Path,
    interactions: Path | None,
    previous: Path | None,
    out: Path,
) -> Summary:
    """Write ``codebook.safetensors``, ``index.json``, ``quality.json`` and ``quality.html``.

    Args:
        config: Settings.
        seed: Of the codebook.
        embeddings: ``embeddings.safetensors``.
        items: ``items.parquet``.
        interactions: ``interactions.parquet``, for the neighbours in the report; a run of items alone has none.
        previous: Run folder whose codebook encodes, and whose items keep their ids, in place of fitting one.
        out: Folder written to.

    Raises:
        GreamError: Unusable embeddings, more clusters than items, more items than ids, or ``previous`` does not fit.
    """
    vectors = read_embeddings(embeddings, len(read_item_ids(items)))
    if previous is None:
        sizes = (config.codebook_size,) * config.levels
        codebook, raw = fit_residual_kmeans(
            vectors,
            sizes,
            seed=seed,
            balanced=config.balanced,
            restarts=config.restarts,
            sample=config.fit_items,
            device=config.device,
        )
        codes = resolve_collisions(raw, vectors, codebook, config.collisions)
    else:
        codebook = Codebook.load(previous / "codebook.safetensors")
        width, fitted = vectors.shape[1], codebook.centroids[0].shape[1]
        if width != fitted:
            raise GreamError(
                f"{embeddings} is of width {width}, {previous / 'codebook.safetensors'} of width {fitted}; run the "
                "stage 'embed' with --previous and the settings of that run"
            )
        raw = codebook.encode(vectors)
        codes = _grow(raw, vectors, codebook, config.collisions, read_item_ids(items), previous)
    codebook.save(out / "codebook.safetensors")
    tokens = [[level_token(level, code) for code in range(top + 1)] for level, top in enumerate(codes.max(axis=0))]
    ids = [[tokens[level][code] for level, code in enumerate(row) if code >= 0] for row in codes.tolist()]
    Catalog(ids).save(out / "index.json")
    report = quality_report(
        raw,
        codes,
        vectors,
        codebook,
        policy=config.collisions,
        categories=[item.category for item in read_items(items)],
        pairs=training_pairs(interactions),
    )
    write_json(out / "quality.json", report)
    write_text(out / "quality.html", quality_page(report))
    sharing, moved = (report["collisions"][name] for name in ("items_sharing", "ids_moved"))
    levels = " x ".join(map(str, codebook.sizes))
    return Summary(
        f"{len(codes):,} items, codes {levels}, {sharing:,} items sharing an id at first, {moved:,} ids moved"
    )


def _grow(
    raw: Codes, vectors: Floats, codebook: Codebook, policy: Policy, item_ids: list[str], previous: Path
) -> Codes:
    """Ids of ``previous`` for the items it has, and ids that none of its items has for the others."""
    given = index_codes(Catalog.load(previous / "index.json").ids)
    given = np.where(given > 0, given - 1, -1)  # tokens count from 1
    width = len(codebook.sizes) + (policy == "disambiguate")
    given = np.pad(given, ((0, 0), (0, max(0, width - given.shape[1]))), constant_values=-1)
    known = {item: row for row, item in enumerate(read_item_ids(previous / "items.parquet"))}
    new = [row for row, item in enumerate(item_ids) if item not in known]
    codes = np.empty((len(raw), given.shape[1]), dtype=np.int64)
    codes[new] = resolve_collisions(raw[new], vectors[new], codebook, policy, given=given)
    for row, item in enumerate(item_ids):
        if item in known:
            codes[row] = given[known[item]]
    return codes
