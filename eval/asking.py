"""How a model is asked, wherever it runs: the prompt, the room that it needs, and one list out of several chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from gream.decoding.chain_text import Chain
from gream.decoding.combine import combine_chains
from gream.dialogue import ANSWER_OPEN, Form, direct_text, reasoning_prompt, render_prompt
from gream.errors import GreamError

from .results import K, Mode

if TYPE_CHECKING:
    from gream.decoding.beam import Score  # which imports torch

Combine = Literal["probability", "answers"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What, with the model, determines the lists.

    Attributes:
        beams: Hypotheses per step of the item search.
        score: What an item's score is, see `gream.decoding.beam.TrieBeamSearch`.
        history: Most recent items in the prompt.
        chain_tokens: Most tokens of a chain; None asks for the item directly.
        temperature: Of the chains; 0 is greedy.
        seed: Of sampled chains.
        chains: Chains per user; of no account where the item is asked for directly.
        combine: What becomes of several chains. "probability" makes one list, of items by their probability averaged
            over the chains (`combine_chains`). "answers" keeps one answer per chain, its likeliest item, ordered by the
            log-probability of chain and item together and not merged: the paper's sampled mode.
        form: Of the direct prompt, as the model was trained on it.
        exclude_history: Whether lists leave out all items of the user's history.
    """

    beams: int
    score: Score
    history: int
    chain_tokens: int | None
    temperature: float
    seed: int
    chains: int = 1
    combine: Combine = "probability"
    form: Form = "question"
    exclude_history: bool = False

    def __post_init__(self) -> None:
        if self.history < 1:
            raise GreamError(f"--history {self.history}: 1 or more needed")
        if self.chains < 1 or (self.chains > 1 and not self.temperature):
            raise GreamError(
                f"--chains {self.chains}: 1 or more needed, and above 1 a --temperature above 0, as greedy chains "
                "are all the same"
            )
        if self.combine == "answers" and self.chains < 2:
            raise GreamError(f"--chains {self.chains}: sampled answers come from 2 chains or more")

    @property
    def mode(self) -> Mode:
        """What the evaluation is called."""
        if self.chain_tokens is None:
            return "direct"
        return "sampled" if self.combine == "answers" else "reasoning"

    @property
    def list_length(self) -> int:
        """Items to search for after each prompt or chain."""
        # Lists to be combined are as long as the beam is wide, so that few items are missing from some.
        return max(K, self.beams) if self.chains > 1 and self.combine == "probability" else K

    def excluded(self, history: Sequence[int]) -> frozenset[int]:
        """The items that a list for a user with this whole history leaves out."""
        return frozenset(history) if self.exclude_history else frozenset()

    def check_exclusion(self, histories: Sequence[Sequence[int]], ids: int) -> None:
        """Refuse to leave out histories that leave less than a list.

        Args:
            histories: Of all users who are to be asked.
            ids: Distinct semantic ids of the catalogue.

        Raises:
            GreamError: They do.
        """
        longest = max(map(len, histories))
        if self.exclude_history and ids - longest < self.list_length:
            raise GreamError(
                f"--exclude-history: a history of {longest} items leaves fewer than the {self.list_length} of a list, "
                f"as the catalogue has {ids}; ask without it"
            )

    def prompt(self, history: Sequence[str]) -> str:
        """The prompt for a user's whole history, semantic ids as text, oldest first."""
        return prompt_text(history[-self.history :], reasoned=self.chain_tokens is not None, form=self.form)

    def room(self, depth: int) -> int:
        """Tokens that follow a prompt, for ids of up to ``depth`` tokens."""
        return depth + (0 if self.chain_tokens is None else chain_room(self.chain_tokens))

    def merge(
        self, items: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], chains: Sequence[Chain]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], Chain]:
        """What one user gets out of m chains.

        Args:
            items: ``[m, w]``, the list after each chain, best first.
            scores: ``[m, w]``.
            chains: m; for sampled answers with their own scores.

        Returns:
            Items and scores, best first, and the chain that speaks most for the first item.
        """
        if self.combine == "answers":
            total = np.array([chain.score for chain in chains]) + scores[:, 0]
            order = np.argsort(-total, kind="stable")
            best, merged = items[order, 0], total[order].astype(np.float32)
        elif len(chains) > 1:
            best, merged = combine_chains(items, scores, min(K, items.shape[1]))
        else:
            best, merged = items[0], scores[0]
        said = np.where(items == best[0], scores, -np.inf).max(axis=1)
        return best, merged, chains[int(said.argmax())]


def prompt_text(history: Sequence[str], *, reasoned: bool, form: Form) -> str:
    """The text after which a model writes a chain, or the next item at once.

    Args:
        history: Semantic ids as text, oldest first.
        reasoned: Whether a chain is wanted.
        form: Of the direct prompt.
    """
    return render_prompt(reasoning_prompt(history)) if reasoned else direct_text(history, form)


def chain_room(chain_tokens: int) -> int:
    """Tokens that a chain may take, ``<answer>`` appended to a full one included."""
    return chain_tokens + len(ANSWER_OPEN)  # which has no more tokens than characters


def encode_prompts(tokenizer: Any, texts: Sequence[str], *, room: int, limit: int) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        tokenizer: That of the checkpoint.
        texts: Prompts with their chat markers.
        room: Most tokens that follow a prompt.
        limit: Positions of the model.

    Raises:
        GreamError: A prompt leaves less room than that.
    """
    prompts: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    longest = max(map(len, prompts))
    if longest + room > limit:
        raise GreamError(
            f"the longest prompt has {longest} tokens and up to {room} follow, but the model has {limit} "
            "positions; lower --history or --chain-tokens"
        )
    return prompts
