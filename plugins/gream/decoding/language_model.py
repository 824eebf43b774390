"""A causal language model taken apart for decoding: hidden states with a cache, and rows of the head.

Nothing here calls ``generate``, so no setting of a model's ``generation_config`` takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gream.decoding.cache import growing_cache
from gream.errors import GreamError

# Logits held at once for a sum over the vocabulary: 2 MiB of a CPU's cache, on a GPU 256 MiB, for fewer and larger
# kernels.
_LOGITS_AT_ONCE_CPU = 1 << 19
_LOGITS_AT_ONCE = 1 << 26


@dataclass
class Encoded:
    """A batch of texts, read by the model; `LanguageModel.extend` grows it.

    Attributes:
        hidden: ``[B, d]``, final hidden state of the last token of each row.
        mask: bool ``[B, T]``, False where the cache holds padding, or what is no part of the row's text.
        lengths: int64 ``[B]``, tokens of each row without padding.
        cache: Keys and values of every layer.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor
    cache: Any

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but ``rows``."""
        self.hidden, self.mask, self.lengths = self.hidden[rows], self.mask[rows], self.lengths[rows]
        self.cache.batch_select_indices(rows)

    def take(self, rows: torch.Tensor) -> Encoded:
        """A copy of ``rows``; this batch stays as it is."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in cache.layers]
        taken = Encoded(self.hidden, self.mask, self.lengths, cache)
        taken.keep(rows)
        return taken

    def forget(self, counts: torch.Tensor) -> None:
        """Let the last ``counts`` tokens of each row, int64 ``[B]``, be no part of its text any more."""
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        self.mask = self.mask & (columns < self.mask.shape[1] - counts[:, None])
        self.lengths = self.lengths - counts

    def repeat(self, times: int) -> None:
        """Put ``times`` copies of each row in its place."""
        self.hidden, self.mask, self.lengths = (
            part.repeat_interleave(times, dim=0) for part in (self.hidden, self.mask, self.lengths)
        )
        self.cache.batch_repeat_interleave(times)


def joined(parts: Sequence[tuple[Sequence[int], Encoded]]) -> Encoded:
    """One batch of several, shorter ones padded on the left; the parts are used up.

    Args:
        parts: Batches, each with the numbers of its rows in the whole, which together are 0 to B-1.
    """
    if len(parts) == 1 and list(parts[0][0]) == list(range(len(parts[0][0]))):
        return parts[0][1]
    size, width = sum(len(rows) for rows, _ in parts), max(part.mask.shape[1] for _, part in parts)

    def whole(tensors: Sequence[torch.Tensor], dimension: int | None) -> torch.Tensor:
        """The rows of ``tensors`` in their places, ends of ``dimension`` aligned; zero is padding."""
        shape = list(tensors[0].shape)
        shape[0] = size
        if dimension is not None:
            shape[dimension] = width
        target = tensors[0].new_zeros(shape)
        for (rows, _), tensor in zip(parts, tensors, strict=True):
            own = (
                target
                if dimension is None
                else target.narrow(dimension, width - tensor.shape[dimension], tensor.shape[dimension])
            )
            own[list(rows)] = tensor
        return target

    encoded = [part for _, part in parts]
    cache = encoded[0].cache
    for layers in zip(*(part.cache.layers for part in encoded), strict=True):
        keys = whole([layer.keys for layer in layers], 2)
        values = whole([layer.values for layer in layers], 2)
        for layer in layers:  # freed layer by layer: keys and values of the whole batch are never held twice
            layer.keys = layer.values = None
        layers[0].keys, layers[0].values = keys, values
    return Encoded(
        whole([part.hidden for part in encoded], None),
        whole([part.mask for part in encoded], 1),
        whole([part.lengths for part in encoded], None),
        cache,
    )


class LanguageModel:
    """The body and the head of a transformers causal language model.

    Attributes:
        device: Where the model lives.
        vocabulary: Rows of the head, padding rows included.
    """

    def __init__(self, model: Any) -> None:
        """Take ``model`` apart and check that its parts make its logits.

        Args:
            model: A transformers causal language model in evaluation mode.

        Raises:
            GreamError: The model is in training mode, attends in a window, or its logits are more than its
                head applied to its last hidden state (soft-capped or scaled logits).
        """
        if model.training:
            raise GreamError("the model is in training mode, where dropout is random; call model.eval() first")
        windowed = {kind for kind in getattr(model.config, "layer_types", None) or [] if kind != "full_attention"}
        if windowed:
            raise GreamError(f"{type(model).__name__} has {', '.join(sorted(windowed))} layers; full attention needed")
        self._body = model.base_model
        self._head = model.get_output_embeddings()
        self._limit: int = model.config.max_position_embeddings
        self.device: torch.device = self._head.weight.device
        self.vocabulary: int = self._head.weight.shape[0]
        probe = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            own = self._head(self._body(input_ids=probe, use_cache=False).last_hidden_state)
            whole = model(input_ids=probe, use_cache=False).logits
        if not torch.allclose(own, whole, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise GreamError(
                f"{type(model).__name__} changes the logits after its head (soft cap or scale); decoding "
                "needs logits that are the head times the last hidden state"
            )

    def encode(self, prompts: Sequence[Sequence[int]], *, room: int) -> Encoded:
        """Read a batch of prompts.

        Args:
            prompts: B lists of token ids, of any lengths.
            room: Tokens that will follow.

        Raises:
            GreamError: There is no prompt, one is empty, or one leaves no room in the model's context.
        """
        sizes = [len(prompt) for prompt in prompts]
        if not sizes or min(sizes) == 0:
            raise GreamError("decoding needs at least one prompt, and no empty one")
        if max(sizes) + room > self._limit:
            raise GreamError(
                f"a prompt of {max(sizes)} tokens and {room} that follow exceed the model's {self._limit} "
                "positions; shorten the history or the chain"
            )
        empty = torch.zeros(len(sizes), 0, dtype=torch.int64, device=self.device)  # [B, T], T = 0
        encoded = Encoded(empty, empty.bool(), empty.sum(1), growing_cache())
        self.extend(encoded, prompts)
        return encoded

    def extend(self, encoded: Encoded, texts: Sequence[Sequence[int]]) -> None:
        """Append tokens to each row of ``encoded``.

        Args:
            encoded: B rows; changed in place.
            texts: B lists of token ids, of any lengths, none empty; shorter ones are padded on the left.
        """
        width = max(map(len, texts))
        ids = np.zeros((len(texts), width), dtype=np.int64)  # padding is masked, so its token does not matter
        for row, tokens in enumerate(texts):
            ids[row, width - len(tokens) :] = tokens
        sizes = torch.tensor([len(tokens) for tokens in texts], device=self.device)  # [B]
        new = torch.arange(width, device=self.device) >= (width - sizes)[:, None]  # [B, R]
        encoded.mask = torch.cat([encoded.mask, new], dim=1)
        output = self._body(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=encoded.mask,
            position_ids=(encoded.lengths[:, None] + new.cumsum(1) - 1).clamp(min=0),
            past_key_values=encoded.cache,
            use_cache=True,
        )
        encoded.lengths = encoded.lengths + sizes
        encoded.hidden = output.last_hidden_state[:, -1]

    def branch(self, encoded: Encoded, tokens: torch.Tensor, ancestry: torch.Tensor, depth: int) -> torch.Tensor:
        """Read the ``depth``-th tokens of W branches that all grow from the same prompt.

        The prompt's keys and values stay as they are, shared by all branches: which of the branch tokens read
        so far belong to which branch is a matter of the attention mask alone.

        Args:
            encoded: B rows; its cache grows by W, the rest stays that of the prompts.
            tokens: int64 ``[B, W]``.
            ancestry: bool ``[B, W, S]``; which of the S branch tokens read so far, these W included (last),
                each branch consists of.
            depth: Branch tokens before these, in each branch.

        Returns:
            Hidden states ``[B, W, d]``.
        """
        B, W, _ = ancestry.shape  # noqa: N806 - the names of the dimensions
        seen = torch.cat([encoded.mask[:, None].expand(B, W, -1), ancestry], dim=2)  # [B, W, T + S]
        dtype = encoded.hidden.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(dtype).min)
        output = self._body(
            input_ids=tokens,
            attention_mask=mask[:, None],
            position_ids=(encoded.lengths + depth)[:, None].expand(B, W),
            past_key_values=encoded.cache,
            use_cache=True,
        )
        states: torch.Tensor = output.last_hidden_state
        return states

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits over the whole vocabulary, float32 ``[..., vocabulary]``."""
        logits: torch.Tensor = self._head(hidden).float()
        return logits

    def logits_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the ``[U]`` ``tokens``, float32 ``[..., U]``: no other row of the head is computed."""
        return self._rows(hidden, tokens)

    def normaliser(self, hidden: torch.Tensor) -> torch.Tensor:
        """What a log-softmax over the vocabulary takes off every logit: log sum exp, ``[..., d]`` to float32 ``[...]``.

        The whole head takes part, a slice of it at a time: logits that are summed while they lie in a processor's cache
        take half the time of a table of all of them.
        """
        states = hidden.flatten(0, -2)  # [N, d]
        held = _LOGITS_AT_ONCE_CPU if self.device.type == "cpu" else _LOGITS_AT_ONCE
        size = max(1, held // len(states))
        sums = [
            self._rows(states, slice(start, start + size)).logsumexp(1) for start in range(0, self.vocabulary, size)
        ]
        return torch.stack(sums).logsumexp(0).view(hidden.shape[:-1])

    def _rows(self, hidden: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        bias = None if self._head.bias is None else self._head.bias[rows]
        return torch.nn.functional.linear(hidden, self._head.weight[rows], bias).float()


def batches_by_length(sequences: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices of ``sequences`` in batches of ``size``, longest first, so that batches hold little padding.

    Raises:
        GreamError: ``size`` is below 1.
    """
    if size < 1:
        raise GreamError(f"batch size {size}: 1 or more needed")
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))
    return [order[start : start + size] for start in range(0, len(order), size)]
