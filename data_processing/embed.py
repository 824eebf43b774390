"""Stage ``embed``: one vector per item by latent semantic analysis of its text (TF-IDF, truncated SVD)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from data_processing.tables import read_items, read_jsonl


def embed(items: Path, enriched: Path, dimensions: int, seed: int, out: Path) -> None:
    """Write ``embeddings.safetensors``: float32 ``[n, d]`` under "embeddings", rows of unit length.

    Args:
        items: ``items.parquet``.
        enriched: ``enriched.jsonl``, the teacher's descriptions.
        dimensions: d at most.
        seed: Of the randomised SVD.
        out: Folder written to.

    Raises:
        GreamError: The texts share no word.
    """
    from safetensors.numpy import save_file

    catalogue = read_items(items)
    descriptions = [row["description"] for row in read_jsonl(enriched)]
    texts = [
        f"{item.title} {item.brand} {' '.join(item.categories)} {description}"
        for item, description in zip(catalogue, descriptions, strict=True)
    ]
    vectors = lsa_vectors(texts, dimensions, seed, source=str(items))
    save_file({"embeddings": vectors}, str(out / "embeddings.safetensors"))


def lsa_vectors(texts: list[str], dimensions: int, seed: int, *, source: str) -> npt.NDArray[np.float32]:
    """Unit vectors float32 ``[n, d]`` of the texts, d at most ``dimensions``; ``source`` is named in errors.

    Raises:
        GreamError: The texts share no word, or are too few.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    # A word of a single item cannot relate it to another one.
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english", ngram_range=(1, 2))
    try:
        counts = vectorizer.fit_transform(texts)
    except ValueError:
        raise GreamError(f"{source}: no word occurs in two items; semantic ids need item texts") from None
    rank = min(dimensions, min(counts.shape) - 1)
    if rank < 1:
        raise GreamError(f"{source}: the texts of {len(texts)} items are too few or too alike to embed")
    vectors = TruncatedSVD(n_components=rank, random_state=seed).fit_transform(counts)
    return normalize(vectors).astype(np.float32)
