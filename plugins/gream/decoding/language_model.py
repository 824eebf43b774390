"""A causal language model taken apart for decoding: hidden states with a cache, and rows of the head.

Nothing here calls ``generate``, so no setting of a model's ``generation_config`` takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gream.errors import GreamError

# Logits held at once for a sum over the vocabulary: 2 MiB of a CPU's cache, on a GPU 256 MiB, for fewer and larger
# kernels.
_LOGITS_AT_ONCE_CPU = 1 << 19
_LOGITS_AT_ONCE = 1 << 26


@dataclass
class Encoded:
    """A left-padded batch of prompts, read by the model; `LanguageModel.extend` grows it.

    Attributes:
        hidden: ``[B, d]``, final hidden state of the last token of each prompt.
        mask: bool ``[B, T]``, False where the cache holds padding.
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

    def repeat(self, times: int) -> None:
        """Put ``times`` copies of each row in its place."""
        self.hidden, self.mask, self.lengths = (
            part.repeat_interleave(times, dim=0) for part in (self.hidden, self.mask, self.lengths)
        )
        self.cache.batch_repeat_interleave(times)


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
        lengths = torch.tensor(sizes, device=self.device)  # [B]
        width = max(sizes)
        ids = np.zeros((len(sizes), width), dtype=np.int64)  # padding is masked, so its token does not matter
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
        mask = torch.arange(width, device=self.device) >= (width - lengths)[:, None]  # [B, T]
        output = self._body(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        return Encoded(output.last_hidden_state[:, -1], mask, lengths, output.past_key_values)

    def extend(self, encoded: Encoded, tokens: torch.Tensor) -> None:
        """Append one token to each row of ``encoded``.

        Args:
            encoded: B rows; changed in place.
            tokens: int64 ``[B]``.
        """
        encoded.mask = torch.nn.functional.pad(encoded.mask, (0, 1), value=True)
        output = self._body(
            input_ids=tokens[:, None],
            attention_mask=encoded.mask,
            position_ids=encoded.lengths[:, None],
            past_key_values=encoded.cache,
            use_cache=True,
        )
        encoded.lengths = encoded.lengths + 1
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
