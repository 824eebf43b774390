"""Where a chain ends in what a model wrote: tokens in, a `Chain` out, wherever they were written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gream.dialogue import ANSWER_OPEN
from gream.errors import GreamError

# What ends a turn in gream.dialogue.CHAT_TEMPLATE.
_TURN_END = "<|im_end|>"


@dataclass(frozen=True)
class Chain:
    """What the model wrote before the item.

    Attributes:
        tokens: Token ids, those of ``<answer>`` last. Prompt and chain together are the prefix of the item.
        text: The same as text; ends with ``<answer>``.
        complete: True where the model wrote ``<answer>`` itself; False where its turn or the budget ended
            first and ``<answer>`` was appended.
        score: Log-probability, at temperature 1, of what the model wrote, the end of its turn included; NaN where
            nobody computed it. Equality of chains does not look at it.
    """

    tokens: tuple[int, ...]
    text: str
    complete: bool
    score: float = field(default=math.nan, compare=False)


class ChainText:
    """Reads chains with a tokenizer.

    Attributes:
        end: Token that ends a turn.
        open: Tokens of ``<answer>``.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Take the model's fast tokenizer.

        Raises:
            GreamError: It does not know the end of a turn.
        """
        self._tokenizer = tokenizer
        end = self._encode(_TURN_END)
        if tokenizer.convert_ids_to_tokens(end) != [_TURN_END]:
            raise GreamError(f"the tokenizer does not know {_TURN_END}; a ChatML tokenizer is needed")
        self.end: int = end[0]
        self.open = self._encode(ANSWER_OPEN)

    def read(self, tokens: Sequence[int], logs: Sequence[float] | None = None) -> Chain:
        """The chain in all that a model wrote: up to its first ``<answer>``, which is appended where there is none.

        The same as `ChainWriter` makes of the same tokens, one after the other: what follows ``<answer>``, or the end
        of the turn, is not looked at.

        Args:
            tokens: All that was written.
            logs: Log-probability of each of them, at temperature 1; None leaves the chain without a score.
        """

        def score(count: int) -> float:
            return math.nan if logs is None else math.fsum(logs[:count])

        for count, token in enumerate(tokens, start=1):
            if token == self.end:
                return self.forced(tokens[: count - 1], score(count))
            chain = self.finished(tokens[:count])
            if chain is not None:
                return replace(chain, score=score(count))
        return self.forced(tokens, score(len(tokens)))

    def finished(self, tokens: Sequence[int], score: float = math.nan) -> Chain | None:
        """The chain in ``tokens`` if the last of them completes ``<answer>``; ``score`` as in `Chain`."""
        # Each token holds a byte or more, so that the last ones cover the mark, whatever pieces it was written in.
        tail = self._decode(tokens[-len(ANSWER_OPEN) :])
        if ANSWER_OPEN not in tail:
            return None
        text = self._decode(tokens)
        if text.endswith(ANSWER_OPEN):
            return Chain(tuple(tokens), text, complete=True, score=score)
        # The last token runs past the mark: the chain is what stands before, in the tokenizer's own pieces.
        text = text[: text.index(ANSWER_OPEN) + len(ANSWER_OPEN)]
        return Chain(tuple(self._encode(text)), text, complete=True, score=score)

    def forced(self, tokens: Sequence[int], score: float = math.nan) -> Chain:
        """The chain whose turn or budget ended before its ``<answer>``; ``score`` as in `Chain`."""
        return Chain((*tokens, *self.open), self._decode(tokens) + ANSWER_OPEN, complete=False, score=score)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
