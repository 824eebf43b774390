"""Latent semantic analysis of item texts (TF-IDF, truncated SVD): needs no model and no GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError
from gream.files import write_atomically

from ..words import terms_of
from . import item_text, main_directions

if TYPE_CHECKING:
    from ..tables import Item


@dataclass(frozen=True)
class LsaEncoder:
    """Text to vector: TF-IDF over a fixed vocabulary, projected on the main directions of the texts it was fitted to.

    Attributes:
        vocabulary: Terms of one or two words (see `data_processing.words`), in column order.
        idf: Inverse document frequency of each term, ``[terms]``.
        components: ``[d, terms]``.
    """

    vocabulary: list[str]
    idf: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]

    @staticmethod
    def fit(items: Sequence[Item], dimensions: int, seed: int, *, source: str) -> LsaEncoder:
        """Fit to the texts of ``items``, to ``dimensions`` at most.

        Raises:
            GreamError: The texts share no word, or are too few; names ``source``.
        """
        # A word of a single item cannot relate it to another one.
        vectorizer = _vectorizer(min_df=2)
        try:
            counts = vectorizer.fit_transform([item_text(item) for item in items])
        except ValueError:
            raise GreamError(
                f"{source}: no word occurs in two items; give items texts, or set embed.collaborative=1 for ids "
                "of co-purchases alone"
            ) from None
        rank = min(dimensions, min(counts.shape) - 1)
        if rank < 1:
            raise GreamError(f"{source}: the texts of {len(items)} items are too few or too alike to embed")
        components = main_directions(counts, rank, seed)
        return LsaEncoder(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, components)

    @cached_property
    def _fitted(self) -> Any:
        vectorizer = _vectorizer(vocabulary=self.vocabulary)
        vectorizer.idf_ = self.idf
        return vectorizer

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Vectors of unit length, float32 ``[n, d]``; zeros for a text without a known word."""
        from sklearn.preprocessing import normalize

        weights = self._fitted.transform([item_text(item) for item in items])
        return normalize(weights @ self.components.T).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write a safetensors file; the vocabulary is in its metadata."""
        from safetensors.numpy import save_file

        tensors = {"idf": self.idf, "components": np.ascontiguousarray(self.components)}
        with write_atomically(path) as temporary:
            save_file(tensors, str(temporary), metadata={"vocabulary": json.dumps(self.vocabulary)})

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

    return TfidfVectorizer(sublinear_tf=True, analyzer=terms_of, **more)
