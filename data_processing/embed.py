"""Stage ``embed``: one vector per item by latent semantic analysis of its text (TF-IDF, truncated SVD)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from data_processing.tables import read_items, read_jsonl


@dataclass(frozen=True)
class LsaEncoder:
    """Text to vector: TF-IDF over a fixed vocabulary, projected on the main directions of the texts it was fitted to.

    Attributes:
        vocabulary: Terms of one or two words, in column order.
        idf: Inverse document frequency of each term, ``[terms]``.
        components: ``[d, terms]``.
    """

    vocabulary: list[str]
    idf: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]

    @staticmethod
    def fit(texts: Sequence[str], dimensions: int, seed: int, *, source: str) -> LsaEncoder:
        """Fit to ``texts``, to ``dimensions`` at most.

        Raises:
            GreamError: The texts share no word, or are too few; names ``source``.
        """
        from sklearn.decomposition import TruncatedSVD

        # A word of a single item cannot relate it to another one.
        vectorizer = _vectorizer(min_df=2)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError:
            raise GreamError(f"{source}: no word occurs in two items; semantic ids need item texts") from None
        rank = min(dimensions, min(counts.shape) - 1)
        if rank < 1:
            raise GreamError(f"{source}: the texts of {len(texts)} items are too few or too alike to embed")
        svd = TruncatedSVD(n_components=rank, random_state=seed).fit(counts)
        return LsaEncoder(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, svd.components_)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of unit length, float32 ``[n, d]``; zeros for a text without a known word."""
        from sklearn.preprocessing import normalize

        vectorizer = _vectorizer(vocabulary=self.vocabulary)
        vectorizer.idf_ = self.idf
        return normalize(vectorizer.transform(texts) @ self.components.T).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write a safetensors file; the vocabulary is in its metadata."""
        from safetensors.numpy import save_file

        tensors = {"idf": self.idf, "components": np.ascontiguousarray(self.components)}
        save_file(tensors, str(path), metadata={"vocabulary": json.dumps(self.vocabulary)})

    @staticmethod
    def load(path: Path) -> LsaEncoder:
        """Read what `save` wrote.

        Raises:
            GreamError: The file cannot be read or holds no encoder.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                vocabulary = json.loads((file.metadata() or {})["vocabulary"])
                return LsaEncoder(vocabulary, file.get_tensor("idf"), file.get_tensor("components"))
        except (OSError, SafetensorError, KeyError) as error:
            raise GreamError(f"{path}: cannot be read as an encoder ({error}); run the stage 'embed' again") from None


def _vectorizer(**more: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, stop_words="english", ngram_range=(1, 2), **more)


def embed(items: Path, enriched: Path, dimensions: int, seed: int, previous: Path | None, out: Path) -> None:
    """Write ``embeddings.safetensors``, float32 ``[n, d]`` under "embeddings", rows of unit length, and the encoder.

    Args:
        items: ``items.parquet``.
        enriched: ``enriched.jsonl``, the teacher's descriptions.
        dimensions: d at most.
        seed: Of the randomised SVD.
        previous: ``encoder.safetensors`` to encode with, in place of fitting one.
        out: Folder written to.

    Raises:
        GreamError: The texts share no word, or ``previous`` cannot be read.
    """
    from safetensors.numpy import save_file

    catalogue = read_items(items)
    descriptions = [row["description"] for row in read_jsonl(enriched)]
    texts = [
        f"{item.title} {item.brand} {' '.join(item.categories)} {description}"
        for item, description in zip(catalogue, descriptions, strict=True)
    ]
    encoder = LsaEncoder.load(previous) if previous else LsaEncoder.fit(texts, dimensions, seed, source=str(items))
    encoder.save(out / "encoder.safetensors")
    save_file({"embeddings": encoder.encode(texts)}, str(out / "embeddings.safetensors"))
