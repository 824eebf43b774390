"""Item encoders behind one contract: an encoder file says how items become vectors, and whoever opens it agrees.

One process fits an encoder, or takes note of a pretrained one, and writes the file; then it, other processes and other
machines open the file and encode their share. A later run opens it again for the items of a grown catalogue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gream.errors import GreamError
from gream.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..tables import Item

Kind = Literal["lsa", "sentence-transformers", "language-model"]


class Encoder(Protocol):
    """Items to vectors."""

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """One vector per item, float32 ``[n, d]``; an item's vector does not depend on the other items."""


def note_model(path: Path, kind: Kind, digest: str) -> None:
    """Write the encoder file of a pretrained model: what it is, not its weights.

    Args:
        path: Encoder file.
        kind: How the model encodes.
        digest: SHA-256 of its folder.
    """
    from safetensors.numpy import save_file

    # One entry: safetensors writes several in any order.
    with write_atomically(path) as temporary:
        save_file({}, str(temporary), metadata={"encoder": json.dumps({"kind": kind, "model": digest})})


def read_note(path: Path) -> tuple[Kind, str | None]:
    """How an encoder file encodes, and the SHA-256 of the model folder that it needs, if any.

    Raises:
        GreamError: The file cannot be read as an encoder.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            note = json.loads((file.metadata() or {}).get("encoder", '{"kind": "lsa"}'))
            return note["kind"], note.get("model")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise GreamError(f"{path}: cannot be read as an encoder ({error}); run the stage 'embed' again") from None


def open_encoder(path: Path, model: Path | None, batch_tokens: int) -> Encoder:
    """The encoder of an encoder file.

    Args:
        path: Encoder file.
        model: Folder of the pretrained model, where it is one.
        batch_tokens: Tokens that a language model is given at once, padding included.

    Raises:
        GreamError: The file or the folder cannot be read, or a package is not installed.
    """
    kind, _ = read_note(path)
    if kind == "lsa":
        from .lsa import LsaEncoder

        return LsaEncoder.load(path)
    if model is None:
        raise GreamError(f"{path}: made with a {kind} model; name its folder: embed.model=FOLDER")
    if kind == "sentence-transformers":
        from .sentence import SentenceEncoder

        return SentenceEncoder(model)
    from .language_model import LanguageModelEncoder

    return LanguageModelEncoder(model, batch_tokens)


def item_text(item: Item) -> str:
    """All that is known of an item, for encoders that take one text."""
    return f"{item.title} {item.brand} {' '.join(item.categories)} {item.description}"


def main_directions(matrix: Any, rank: int, seed: int) -> npt.NDArray[np.float64]:
    """The first right singular vectors of a sparse matrix, ``[rank, columns]``, whatever the number of threads.

    Sums of floating-point numbers depend on how many threads share them, so one adds them up.
    """
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        components: npt.NDArray[np.float64] = TruncatedSVD(n_components=rank, random_state=seed).fit(matrix).components_
    return components


def quiet_transformers() -> None:
    """Keep bars and reports of weights left out on purpose, such as a language model's head, off the terminal."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def torch_device() -> str:
    """This process's GPU, or "cpu" where there is none; torchrun numbers the processes of a machine."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
