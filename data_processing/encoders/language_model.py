"""The backbone of a language model as an encoder, as in the paper (section 3.1).

Title and description are encoded apart, each is the mean of the last hidden states of its tokens, and an item is the
mean of the two; without a description it is its title.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gream.errors import GreamError

from . import quiet_transformers, torch_device

if TYPE_CHECKING:
    from ..tables import Item


class LanguageModelEncoder:
    """A causal language model without its head: bfloat16 on a GPU, float32 on a CPU."""

    def __init__(self, folder: Path, batch_tokens: int) -> None:
        """Load the model; nothing is downloaded.

        Args:
            folder: Model folder, as transformers saves it.
            batch_tokens: Tokens given to the model at once, padding included.

        Raises:
            GreamError: The folder holds no language model.
        """
        import torch
        import transformers

        device = torch_device()
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        quiet_transformers()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = transformers.AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise GreamError(f"{folder}: cannot be loaded as a language model ({error})") from None
        self._model.config.use_cache = False
        self._model.to(device).eval()
        longest = getattr(self._model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._longest = min(longest, self._tokenizer.model_max_length)
        self._batch_tokens = batch_tokens

    def encode(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Mean of title and description, float32 ``[n, d]``.

        Args:
            items: Each with a title.

        Raises:
            GreamError: A batch does not fit on the GPU.
        """
        texts = [(number, text) for number, item in enumerate(items) for text in (item.title, item.description) if text]
        owners = [number for number, _ in texts]
        tokens = self._tokenizer([text for _, text in texts], truncation=True, max_length=self._longest)
        pooled = mean_pooled(self._model, tokens["input_ids"], self._batch_tokens)
        vectors = np.zeros((len(items), pooled.shape[1]), dtype=np.float32)
        np.add.at(vectors, owners, pooled)
        vectors /= np.bincount(owners)[:, None]
        return vectors


def mean_pooled(model: Any, sequences: Sequence[Sequence[int]], batch_tokens: int) -> npt.NDArray[np.float32]:
    """Mean of the last hidden states of each sequence, float32 ``[n, d]``; padding counts nowhere.

    Args:
        model: A transformers model without head, on its device.
        sequences: Token ids, none empty.
        batch_tokens: Tokens of a batch, padding included; a longer sequence is a batch of its own.

    Raises:
        GreamError: A batch does not fit on the GPU.
    """
    import torch

    pooled = np.empty((len(sequences), model.config.hidden_size), dtype=np.float32)
    for rows in batches_by_length([len(sequence) for sequence in sequences], batch_tokens):
        # Padded on the right by hand: positions then start at 0 in every row, whatever side the tokenizer prefers, and
        # no padding token is needed.
        tokens = torch.zeros(len(rows), len(sequences[rows[0]]), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for place, row in enumerate(rows):
            length = len(sequences[row])
            tokens[place, :length] = torch.as_tensor(sequences[row])
            mask[place, :length] = 1
        mask = mask.to(model.device)
        try:
            with torch.inference_mode():
                hidden = model(input_ids=tokens.to(model.device), attention_mask=mask).last_hidden_state  # [B, T, d]
                means = (hidden.float() * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        except torch.cuda.OutOfMemoryError:
            raise GreamError(
                f"a batch of {tokens.numel()} tokens does not fit on {model.device}; halve embed.batch_tokens and "
                "start again: what is encoded stays"
            ) from None
        pooled[rows] = means.cpu().numpy()
    return pooled


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first: what does not fit into memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
