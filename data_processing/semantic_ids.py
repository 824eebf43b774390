"""Stage ``semantic-ids``: embeddings to unique ids, with the codebook and a quality report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.collisions import resolve_collisions
from gream.semantic_ids.kmeans import fit_residual_kmeans
from gream.semantic_ids.quality import quality_report
from gream.semantic_ids.vocabulary import level_token
from gream.stage import write_json

from data_processing.config import SemanticIdsConfig
from data_processing.tables import read_items, read_training_sequences


def build_semantic_ids(
    config: SemanticIdsConfig, seed: int, embeddings: Path, items: Path, interactions: Path, out: Path
) -> None:
    """Write ``codebook.safetensors``, ``index.json`` and ``quality.json``.

    Raises:
        GreamError: More clusters than items, or more items than ids.
    """
    from safetensors.numpy import load_file

    vectors = load_file(str(embeddings))["embeddings"]
    sizes = (config.codebook_size,) * config.levels
    codebook, raw = fit_residual_kmeans(
        vectors, sizes, seed=seed, balanced=config.balanced, restarts=config.restarts, device=config.device
    )
    codes = resolve_collisions(raw, vectors, codebook, config.collisions)
    codebook.save(out / "codebook.safetensors")
    ids = [[level_token(level, code) for level, code in enumerate(row) if code >= 0] for row in codes.tolist()]
    Catalog(ids).save(out / "index.json")
    pairs = [pair for sequence in read_training_sequences(interactions).values() for pair in pairwise(sequence)]
    report = quality_report(
        raw,
        codes,
        vectors,
        codebook,
        policy=config.collisions,
        categories=[item.category for item in read_items(items)],
        pairs=pairs,
    )
    write_json(out / "quality.json", report)
