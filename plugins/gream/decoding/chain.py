"""Chains of reasoning: what the model writes after a reasoning prompt, up to and including ``<answer>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gream.decoding.chain_text import Chain, ChainText
from gream.decoding.language_model import Encoded, LanguageModel, joined
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
    """Writes chains, a batch at a time; finished rows leave the batch at once."""

    def __init__(self, model: Any, tokenizer: Any, *, budget: int, sampling: Sampling | None = None) -> None:
        """Prepare generation.

        Args:
            model: A transformers causal language model in evaluation mode.
            tokenizer: Its fast tokenizer.
            budget: Most tokens a model may write, those of ``<answer>`` included.
            sampling: None for greedy chains.

        Raises:
            GreamError: The budget is below 1, the tokenizer does not know the end of a turn, or the model is not
                suited (see `LanguageModel`).
        """
        if budget < 1:
            raise GreamError(f"a chain of {budget} tokens: 1 or more needed")
        self._text = ChainText(tokenizer)
        self._lm = LanguageModel(model)
        self._budget = budget
        self._sampling = sampling

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], *, per_prompt: int = 1
    ) -> tuple[list[Chain], Encoded]:
        """Chains after each prompt: those of the first, then those of the second, and so on.

        Args:
            prompts: N lists of token ids, one batch. Each is read once, however many chains follow.
            keys: N numbers, such as the users'; with the seed they determine what is drawn, whatever the batch.
            per_prompt: How many chains follow each prompt.

        Returns:
            N x ``per_prompt`` chains, and prompt and chain of each as the model has read them: the search for items
            goes on from there (`TrieBeamSearch.search`), and reads neither again.

        Raises:
            GreamError: A prompt is empty or leaves no room for chain and ``<answer>``.
        """
        draws = self._draws(keys, per_prompt)
        encoded = self._lm.encode(prompts, room=self._budget + len(self._text.open))
        if per_prompt > 1:
            encoded.repeat(per_prompt)
        rows = list(range(len(prompts) * per_prompt))  # the chain behind each row still in the batch
        written: list[list[int]] = [[] for _ in rows]
        scores = [0.0] * len(rows)
        chains: dict[int, Chain] = {}
        unread: dict[int, Sequence[int]] = {}  # the end of each chain
        parts: list[tuple[list[int], Encoded]] = []  # what has been read, of rows that are done
        for step in range(self._budget):
            uniform = None if draws is None else draws[rows, step]
            logits = self._lm.logits(encoded.hidden)
            tokens = self._choose(logits, uniform)
            logs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
            going, done, forgotten = [], [], []
            for place, (row, token, log) in enumerate(zip(rows, tokens.tolist(), logs.tolist(), strict=True)):
                scores[row] += log
                chain = None
                if token == self._text.end:
                    chain = self._text.forced(written[row], scores[row])
                else:
                    written[row].append(token)
                    chain = self._text.finished(written[row], scores[row])
                    if chain is None and step + 1 == self._budget:
                        chain = self._text.forced(written[row], scores[row])
                if chain is None:
                    going.append(place)
                    continue
                done.append(place)
                chains[row] = chain
                # The last token of a chain is always read anew, since what follows it is asked for.
                kept = _common(chain.tokens[:-1], written[row][:step])
                forgotten.append(step - kept)
                unread[row] = chain.tokens[kept:]
            if done:
                part = encoded.take(_places(done, tokens)) if going else encoded
                part.forget(_places(forgotten, tokens))
                parts.append(([rows[place] for place in done], part))
                rows = [rows[place] for place in going]
                if not rows:
                    break
                encoded.keep(_places(going, tokens))
            self._lm.extend(encoded, [written[row][-1:] for row in rows])
        whole = joined(parts)
        self._lm.extend(whole, [unread[row] for row in range(len(written))])
        return [chains[row] for row in range(len(written))], whole

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


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    size = min(len(one), len(other))
    return next((at for at in range(size) if one[at] != other[at]), size)


def _places(numbers: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, device=like.device)
