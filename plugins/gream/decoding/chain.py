"""Chains of reasoning: what the model writes after a reasoning prompt, up to and including ``<answer>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gream.decoding.chain_text import Chain, ChainText
from gream.decoding.language_model import LanguageModel, batches_by_length
from gream.errors import GreamError


@dataclass(frozen=True)
class Sampling:
    """How chains are drawn; without it they are greedy.

    Attributes:
        temperature: What logits are divided by, above 0.
        seed: Seed of all draws.
    """

    temperature: float
    seed: int

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GreamError(f"temperature {self.temperature}: above 0 needed; greedy chains need no sampling")


class ChainWriter:
    """Writes chains in batches, sorted by length; finished rows leave the batch at once."""

    def __init__(
        self, model: Any, tokenizer: Any, *, budget: int, batch_size: int, sampling: Sampling | None = None
    ) -> None:
        """Prepare generation.

        Args:
            model: A transformers causal language model in evaluation mode.
            tokenizer: Its fast tokenizer.
            budget: Most tokens a model may write, those of ``<answer>`` included.
            batch_size: Chains per batch; rounded up to whole prompts where several chains follow each.
            sampling: None for greedy chains.

        Raises:
            GreamError: The budget or the batch size is below 1, the tokenizer does not know the end of a
                turn, or the model is not suited (see `LanguageModel`).
        """
        if budget < 1:
            raise GreamError(f"a chain of {budget} tokens: 1 or more needed")
        self._text = ChainText(tokenizer)
        self._lm = LanguageModel(model)
        self._budget = budget
        self._batch_size = batch_size
        self._sampling = sampling

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], *, per_prompt: int = 1) -> list[Chain]:
        """Chains after each prompt, in the order of ``prompts``.

        Args:
            prompts: N lists of token ids. Each is read once, however many chains follow.
            keys: N numbers, such as the users'; with the seed they determine what is drawn, whatever the
                batch.
            per_prompt: How many chains follow each prompt; those of one prompt stand together.

        Returns:
            N x ``per_prompt`` chains.

        Raises:
            GreamError: A prompt is empty or leaves no room for chain and ``<answer>``.
        """
        chains: dict[int, list[Chain]] = {}
        for batch in batches_by_length(prompts, -(-self._batch_size // per_prompt)):
            written = self._write_batch(
                [prompts[index] for index in batch], [keys[index] for index in batch], per_prompt
            )
            for place, index in enumerate(batch):
                chains[index] = written[place * per_prompt : (place + 1) * per_prompt]
        return [chain for index in range(len(prompts)) for chain in chains[index]]

    def _write_batch(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], per_prompt: int) -> list[Chain]:
        """``per_prompt`` chains of the first prompt, then those of the second, and so on."""
        draws = self._draws(keys, per_prompt)
        encoded = self._lm.encode(prompts, room=self._budget + len(self._text.open))
        if per_prompt > 1:
            encoded.repeat(per_prompt)
        written: list[list[int]] = [[] for _ in range(len(prompts) * per_prompt)]
        scores = [0.0] * len(written)
        chains: dict[int, Chain] = {}
        rows = list(range(len(written)))  # the chain behind each row still in the batch
        for step in range(self._budget):
            uniform = None if draws is None else draws[rows, step]
            logits = self._lm.logits(encoded.hidden)
            tokens = self._choose(logits, uniform)
            logs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
            going = []
            for place, (row, token, log) in enumerate(zip(rows, tokens.tolist(), logs.tolist(), strict=True)):
                scores[row] += log
                if token == self._text.end:
                    continue
                written[row].append(token)
                chain = self._text.finished(written[row], scores[row])
                if chain is None:
                    going.append(place)
                else:
                    chains[row] = chain
            rows = [rows[place] for place in going]
            if not rows or step + 1 == self._budget:
                break
            if len(rows) < len(tokens):
                kept = torch.tensor(going, device=tokens.device)
                encoded.keep(kept)
                tokens = tokens[kept]
            self._lm.extend(encoded, tokens)
        return [chains.get(row) or self._text.forced(written[row], scores[row]) for row in range(len(written))]

    def _draws(self, keys: Sequence[int], per_prompt: int) -> torch.Tensor | None:
        """Uniform numbers, float64 ``[N * per_prompt, budget]``: one per token, by seed, key and chain alone."""
        if self._sampling is None:
            return None
        rows = [
            np.random.default_rng([self._sampling.seed, key, number]).random(self._budget)
            for key in keys
            for number in range(per_prompt)
        ]
        return torch.from_numpy(np.stack(rows)).to(self._lm.device)

    def _choose(self, logits: torch.Tensor, uniform: torch.Tensor | None) -> torch.Tensor:
        """The next token of each row, int64 ``[N]``: the likeliest, or the one its uniform number hits."""
        if self._sampling is None or uniform is None:
            return logits.argmax(1)
        cumulative = (logits.double() / self._sampling.temperature).softmax(1).cumsum(1)  # [N, vocabulary]
        # Rounding may leave the last sum below a draw close to 1.
        drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return drawn[:, 0].clamp(max=logits.shape[1] - 1)
