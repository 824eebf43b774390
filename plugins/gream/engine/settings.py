"""How a model is asked, wherever it runs: one class for evaluation, serving and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gream.decoding.choices import Score
from gream.dialogue import ANSWER_OPEN, Form
from gream.errors import GreamError


class Mode(StrEnum):
    """How an item is asked for: at once, or after a chain of reasoning."""

    direct = "direct"
    reasoning = "reasoning"


class Combine(StrEnum):
    """What becomes of several chains.

    ``probability``: one list, of items by their probability averaged over the chains (`combine_chains`). ``answers``:
    one answer per chain, its likeliest item, ordered by the log-probability of chain and item together and not merged:
    the paper's sampled mode.
    """

    probability = "probability"
    answers = "answers"


class Device(StrEnum):
    """Where a model runs in this process; ``auto`` is a GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What, with the model, determines the lists.

    Attributes:
        k: Most items of a list.
        beams: Hypotheses per step of the item search.
        score: What an item's score is, see `gream.decoding.beam.TrieBeamSearch`.
        history: Most recent items in the prompt; None for as many as the model's contract says.
        chain_tokens: Most tokens of a chain; None asks for the item directly.
        temperature: Of the chains; 0 is greedy.
        seed: Of sampled chains.
        chains: Chains per user; of no account where the item is asked for directly.
        combine: What becomes of several chains.
        form: Of the direct prompt; None for the one that the model's contract says.
        exclude_history: Whether lists leave out all items of the user's history.
        fuse: Item scores that are added (`gream.engine.fusion`), by name; None for none.
    """

    k: int = 10
    beams: int = 20
    score: Score = Score.vocabulary
    history: int | None = None
    chain_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    chains: int = 1
    combine: Combine = Combine.probability
    form: Form | None = None
    exclude_history: bool = False
    fuse: str | None = None

    def __post_init__(self) -> None:
        if self.history is not None and self.history < 1:
            raise GreamError(f"--history {self.history}: 1 or more needed")
        if self.chains < 1 or (self.chains > 1 and not self.temperature):
            raise GreamError(
                f"--chains {self.chains}: 1 or more needed, and above 1 a --temperature above 0, as greedy chains "
                "are all the same"
            )
        if self.combine == Combine.answers and self.chains < 2:
            raise GreamError(f"--chains {self.chains}: sampled answers come from 2 chains or more")
        if self.combine == Combine.answers and self.fuse is not None:
            raise GreamError(f"--fuse {self.fuse}: sampled answers are no list to add item scores to")

    @property
    def mode(self) -> Mode:
        """How an item is asked for."""
        return Mode.direct if self.chain_tokens is None else Mode.reasoning

    @property
    def direct(self) -> Settings:
        """The same without a chain."""
        return replace(self, chain_tokens=None, chains=1, temperature=0.0)

    @property
    def list_length(self) -> int:
        """Items to search for after each prompt or chain."""
        # Lists to be combined are as long as the beam is wide, so that few items are missing from some.
        combined = (self.chains > 1 or self.fuse is not None) and self.combine == Combine.probability
        return max(self.k, self.beams) if combined else self.k

    def excluded(self, history: Sequence[int]) -> frozenset[int]:
        """The items that a list for a user with this whole history leaves out."""
        return frozenset(history) if self.exclude_history else frozenset()

    def room(self, depth: int) -> int:
        """Tokens that follow a prompt, for ids of up to ``depth`` tokens."""
        # <answer>, which is appended to a full chain, has no more tokens than characters.
        return depth + (0 if self.chain_tokens is None else self.chain_tokens + len(ANSWER_OPEN))
