"""What items are bought together, as vectors: positive pointwise mutual information, factorised by truncated SVD.

As in Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization" (NIPS 2014), with users' training
histories in place of sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError
from gream.files import write_atomically

from . import main_directions

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CollaborativeEncoder:
    """An item's information about the items of the catalogue it was fitted to, projected on its main directions.

    Attributes:
        items: Ids of those items in the dump, in column order.
        components: float32 ``[d, items]``.
        share: Of the fused vectors' squared norm that is the collaborative part's; see `fuse`.
    """

    items: list[str]
    components: Floats
    share: float

    @staticmethod
    def fit(information: Any, items: Sequence[str], dimensions: int, share: float, seed: int) -> CollaborativeEncoder:
        """Fit to `positive_information`, to ``dimensions`` at most.

        Raises:
            GreamError: Nothing was bought together, or there are too few items.
        """
        rank = min(dimensions, len(items) - 1)
        if rank < 1 or not information.nnz:
            raise GreamError("no two items were bought together in training; set embed.collaborative=0")
        components = main_directions(information, rank, seed)
        return CollaborativeEncoder(list(items), components.astype(np.float32), share)

    def encode(self, information: Any, items: Sequence[str]) -> Floats:
        """Vectors of unit length, zeros where nothing is known.

        Args:
            information: Sparse ``[n, n]`` of `positive_information`.
            items: Ids in the dump of its rows; may be others than the encoder was fitted to.

        Returns:
            float32 ``[n, d]``.
        """
        from sklearn.preprocessing import normalize

        column = {item: number for number, item in enumerate(self.items)}
        kept = [number for number, item in enumerate(items) if item in column]
        components = self.components[:, [column[items[number]] for number in kept]].astype(np.float64)
        return normalize(information[:, kept] @ components.T).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write a safetensors file; ids and share are in its metadata."""
        from safetensors.numpy import save_file

        # One entry: safetensors writes several in any order.
        note = {"note": json.dumps({"items": self.items, "share": self.share})}
        with write_atomically(path) as temporary:
            save_file({"components": np.ascontiguousarray(self.components)}, str(temporary), metadata=note)

    @staticmethod
    def load(path: Path) -> CollaborativeEncoder:
        """Read what `save` wrote.

        Raises:
            GreamError: The file cannot be read or holds no such encoder.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                note = json.loads((file.metadata() or {})["note"])
                return CollaborativeEncoder(note["items"], file.get_tensor("components"), note["share"])
        except (OSError, SafetensorError, KeyError) as error:
            raise GreamError(f"{path}: cannot be read as an encoder ({error}); run the stage 'embed' again") from None


def positive_information(sequences: Iterable[Sequence[int]], n: int) -> Any:
    """How much likelier two items are bought by one user than by chance.

    Args:
        sequences: Items of each user.
        n: Items in the catalogue.

    Returns:
        Sparse float64 ``[n, n]``, symmetric: max(0, log(p(i, j) / (p(i) p(j)))), nothing on the diagonal.
    """
    from scipy.sparse import csr_matrix

    histories = list(sequences)
    users = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    bought = csr_matrix((np.ones(len(items)), (users, items)), shape=(len(histories), n))
    together = (bought.T @ bought).tocoo()
    off = together.row != together.col
    row, column, count = together.row[off], together.col[off], together.data[off]
    popularity = np.bincount(row, weights=count, minlength=n)
    information = np.log(count * count.sum() / (popularity[row] * popularity[column]))
    positive = information > 0
    return csr_matrix((information[positive], (row[positive], column[positive])), shape=(n, n))


def fuse(text: Floats, collaborative: Floats, share: float) -> Floats:
    """Both parts side by side, each of unit length and then weighted.

    Args:
        text: ``[n, d]``.
        collaborative: ``[n, e]``, zeros for items that nothing is known of: these are described by their text alone.
        share: Of the squared norm that is the collaborative part's; 0.5 weighs both alike.

    Returns:
        float32 ``[n, d + e]``.
    """
    from sklearn.preprocessing import normalize

    parts = [np.sqrt(1 - share) * normalize(text), np.sqrt(share) * normalize(collaborative)]
    return np.concatenate(parts, axis=1).astype(np.float32)
