"""Any sentence-transformers model folder as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from . import item_text, quiet_transformers, torch_device

if TYPE_CHECKING:
    from ..tables import Item


class SentenceEncoder:
    """One text per item, encoded as the model itself prescribes."""

    def __init__(self, folder: Path) -> None:
        """Load the model; nothing is downloaded.

        Raises:
            GreamError: sentence-transformers is not installed, or the folder holds no model of its.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise GreamError(
                f"embed.encoder=sentence-transformers: {error}; pip install sentence-transformers"
            ) from None
        quiet_transformers()
        device = torch_device()
        # Half precision gains nothing on a CPU.
        dtype = {"dtype": "float32" if device == "cpu" else "auto"}
        try:
            self._model = SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=dtype)
        except (OSError, ValueError, KeyError) as error:
            raise GreamError(f"{folder}: cannot be loaded as a sentence-transformers model ({error})") from None

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Vectors of unit length, float32 ``[n, d]``."""
        texts = [item_text(item) for item in items]
        vectors = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
