"""The rows of vLLM's batch, and where each stands in its answer; nothing of vLLM's is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gream.decoding.answer import AnswerConstraint
from gream.errors import GreamError


@dataclass(slots=True)
class _Row:
    """A request of the batch, or a vacant row.

    Attributes:
        output: What was sampled: vLLM's own list, which grows.
        begin: State behind the prompt.
        state: State behind the output.
        read: Tokens of the output that ``state`` has seen.
    """

    output: list[int] = field(default_factory=list)
    begin: int = AnswerConstraint.START
    state: int = AnswerConstraint.START
    read: int = 0


class AnswerRows:
    """Follows a batch, and forbids the tokens that no item has. One for each of vLLM's workers."""

    def __init__(self, constraint: AnswerConstraint, rows: int) -> None:
        """Begin with an empty batch.

        Args:
            constraint: The catalogue.
            rows: Most requests in a batch.
        """
        self._constraint = constraint
        self._rows = [_Row() for _ in range(rows)]

    def update(
        self,
        removed: Sequence[int],
        added: Sequence[tuple[int, Any, Sequence[int] | None, list[int]]],
        moved: Sequence[tuple[int, int, Any]],
    ) -> None:
        """Take over a change of the batch, in vLLM's order.

        Args:
            removed: Rows.
            added: Row, parameters, prompt and output of requests; each may take over a row.
            moved: From, to, and whether the rows change places ("SWAP") or the first becomes vacant.
        """
        for at in removed:
            self._rows[at] = _Row()
        for at, _, prompt, output in added:
            begin = self._constraint.behind(prompt or ())
            self._rows[at] = _Row(output, begin, begin)
        for source, target, how in moved:
            other = self._rows[target] if how.name == "SWAP" else _Row()
            self._rows[source], self._rows[target] = other, self._rows[source]

    def confine(self, logits: torch.Tensor) -> torch.Tensor:
        """Make all tokens impossible that must not come next, in place.

        Args:
            logits: ``[B, V]``, of the first rows.

        Raises:
            GreamError: vLLM keeps to itself what it sampled.
        """
        after, inside = self._constraint.after, AnswerConstraint.INSIDE
        confined = []
        for at, row in enumerate(self._rows[: len(logits)]):  # in every step, so with nothing that takes time
            output = row.output
            length = len(output)
            if length != row.read:
                if length != row.read + 1:  # come back with what it had written, or lost some of it
                    row.state = row.begin
                    for token in output[:-1]:
                        row.state = after(row.state, token)
                if length:
                    if output[-1] < 0:  # vLLM's mark for a token that it has not told yet
                        raise GreamError("vLLM keeps what it sampled to itself: name the processor by its module")
                    row.state = after(row.state, output[-1])
                row.read = length
            if row.state >= inside:
                confined.append(at)
        return self._forbid(logits, confined) if confined else logits

    def _forbid(self, logits: torch.Tensor, confined: list[int]) -> torch.Tensor:
        states = (self._rows[at].state for at in confined)
        allowed = [tokens for state in states if (tokens := self._constraint.allowed(state)) is not None]
        row = np.repeat(confined, [len(tokens) for tokens in allowed])
        numbers = torch.from_numpy(np.stack([row, np.concatenate(allowed)]))
        places = numbers.to(logits.device, non_blocking=True).unbind()
        kept = logits[places]
        logits.index_fill_(0, torch.tensor(confined).to(logits.device, non_blocking=True), -torch.inf)
        logits[places] = kept
        return logits
