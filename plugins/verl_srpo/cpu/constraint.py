"""Answers that only items can be: the tokens that may follow inside ``<answer>``, for rollout, actor and reference.

Where a rollout may choose among some tokens only, the actor's and the reference's probabilities must be shares among
the same ones, or the ratio of PPO is off from the first step on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gream.dialogue import ANSWER_CLOSE, ANSWER_OPEN
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.trie import PrefixTrie

# Key of actor_rollout_ref.model.override_config: the one place that a rollout server and a training engine both see.
OPTION = "answer_catalog"

# Finite, because verl's entropy multiplies logits by probabilities of 0.
_FORBIDDEN = -1e9


@dataclass(frozen=True)
class Place:
    """Where a sequence stands.

    Attributes:
        tail: Its last characters, as far as they may be the beginning of an answer.
        node: Node of the trie inside an answer; None outside.
        answered: Whether an answer has been closed; a second one is free.
    """

    tail: str = ""
    node: int | None = None
    answered: bool = False


class AnswerConstraint:
    """The catalogue as what may stand between ``<answer>`` and ``</answer>``."""

    def __init__(self, catalog: Catalog, tokenizer: Any) -> None:
        """Prepare the trie.

        Args:
            catalog: The items.
            tokenizer: The policy's, which has a token for each token of an id.
        """
        vocabulary = tokenizer.get_vocab()
        close = tokenizer.encode(ANSWER_CLOSE, add_special_tokens=False)
        self._trie = PrefixTrie.build([[*(vocabulary[token] for token in tokens), *close] for tokens in catalog.ids])
        self._pieces = [tokenizer.decode([token]) for token in range(max(vocabulary.values()) + 1)]

    def allowed(self, place: Place) -> npt.NDArray[np.int64] | None:
        """Tokens that may come next; None for all."""
        return None if place.node is None else self._trie.children(place.node)

    def after(self, place: Place, token: int) -> Place:
        """Where ``token`` leads."""
        if place.answered:
            return place
        if place.node is None:
            tail = (place.tail + self._pieces[token])[-len(ANSWER_OPEN) :]
            return Place(tail, 0) if tail == ANSWER_OPEN else Place(tail)
        child = self._trie.child(place.node, token)
        # A token that may not come was not sampled under this constraint: nothing is known of what follows.
        return Place(answered=True) if child is None or not len(self._trie.children(child)) else Place(node=child)

    def restrictions(self, tokens: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Positions of a whole sequence whose next token was chosen among some, and among which.

        Args:
            tokens: Prompt and response; a prompt that holds ``<answer>`` itself is not foreseen.
        """
        place = Place()
        for position, token in enumerate(tokens):
            place = self.after(place, token)
            allowed = self.allowed(place)
            if allowed is not None:
                yield position, allowed


def read_constraint(override_config: Mapping[str, Any], tokenizer: Any) -> AnswerConstraint | None:
    """The constraint that verl's model section asks for; None where it asks for none."""
    path = override_config.get(OPTION)
    return AnswerConstraint(Catalog.load(Path(path)), tokenizer) if path else None


def restrict(logits: torch.Tensor, rows: Sequence[tuple[tuple[int, ...], npt.NDArray[np.int64]]]) -> torch.Tensor:
    """``logits`` with all but the allowed tokens made impossible at some places.

    Args:
        logits: ``[..., V]``.
        rows: Index of a place, and the tokens allowed there.
    """
    if not rows:
        return logits
    forbidden = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for place, allowed in rows:
        forbidden[place] = True
        forbidden[place][torch.from_numpy(allowed)] = False
    return logits.masked_fill(forbidden, _FORBIDDEN)
