"""What may follow ``<answer>``: the tokens of an item of the catalogue and then ``</answer>``, as an automaton.

Rollouts, actor, reference and servers walk it, so that all of them mean the same tokens. A state is a number:
`AnswerConstraint.START` before anything is written, and from `AnswerConstraint.INSIDE` on within an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.dialogue import ANSWER_CLOSE, ANSWER_OPEN
from gream.semantic_ids.trie import PrefixTrie

# Below: how many characters of ANSWER_OPEN have just been written. Above: a node of the trie.
_ANSWERED = len(ANSWER_OPEN)


class AnswerConstraint:
    """The catalogue as what may stand between ``<answer>`` and ``</answer>``, the first time that it is written."""

    START = 0
    INSIDE = _ANSWERED + 1

    def __init__(self, ids: Sequence[Sequence[int]], tokenizer: Any) -> None:
        """Prepare the trie.

        Args:
            ids: Token ids of each item's id, all different.
            tokenizer: Of the model.

        Raises:
            GreamError: There is no item, an id is empty, or two items share one.
        """
        close = tokenizer.encode(ANSWER_CLOSE, add_special_tokens=False)
        self._trie = PrefixTrie.build([[*tokens, *close] for tokens in ids])
        self._openings = _openings(tokenizer)

    def after(self, state: int, token: int) -> int:
        """Where a token leads; all may follow one that was not allowed, and so was not sampled under this constraint.

        Args:
            state: Before it.
            token: Its id.
        """
        if state < _ANSWERED:
            states = self._openings.get(token)
            return self.START if states is None else states[state]
        if state == _ANSWERED:
            return state
        child = self._trie.child(state - self.INSIDE, token)
        return _ANSWERED if child is None or not len(self._trie.children(child)) else child + self.INSIDE

    def behind(self, prompt: Sequence[int]) -> int:
        """The state behind a prompt: within an answer where it leaves one open, else outside, whatever it holds.

        Args:
            prompt: Token ids.
        """
        inside, outside = _ANSWERED, self.START
        # An answer that is still open cannot be longer.
        for token in prompt[-(self._trie.depth + len(ANSWER_OPEN)) :]:
            inside, outside = self.after(inside, token), self.after(outside, token)
            if outside == self.INSIDE:
                inside, outside = outside, self.START
        return inside if inside >= self.INSIDE else outside

    def allowed(self, state: int) -> npt.NDArray[np.int64] | None:
        """Tokens that may come next, ascending; None for all."""
        return self._trie.children(state - self.INSIDE) if state >= self.INSIDE else None

    def restrictions(self, tokens: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Positions of a whole sequence whose next token was chosen among some, and among which.

        Args:
            tokens: Prompt and response; a prompt that holds ``<answer>`` itself is not foreseen.
        """
        state = self.START
        for position, token in enumerate(tokens):
            state = self.after(state, token)
            allowed = self.allowed(state)
            if allowed is not None:
                yield position, allowed


def _openings(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """The next state outside of an answer, for each state, of the tokens that can be a part of the mark."""
    begun = tuple(ANSWER_OPEN[: length + 1] for length in range(len(ANSWER_OPEN)))
    state_of = {text: length for length, text in enumerate(begun, start=1)} | {ANSWER_OPEN: AnswerConstraint.INSIDE}
    openings = {}
    pieces = tokenizer.batch_decode([[token] for token in range(max(tokenizer.get_vocab().values()) + 1)])
    for token, piece in enumerate(pieces):
        if piece in ANSWER_OPEN or piece.endswith(begun):
            openings[token] = tuple(
                max((state_of[part] for part in begun if (ANSWER_OPEN[:state] + piece).endswith(part)), default=0)
                for state in range(_ANSWERED)
            )
    return openings
