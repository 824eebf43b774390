"""Chains of a language model between the stage that asks for them and the rows that teach them.

A chain speaks of the items of its history by number, ``[1]`` for the oldest, so that it outlives the semantic ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gream.dialogue import ReasonedAnswer
from gream.errors import GreamError
from gream.files import iterate_jsonl

# Who wrote a chain, where it was no language model.
TEMPLATE = "template"

_REFERENCE = re.compile(r"\[(\d+)\]")


class Place(NamedTuple):
    """A training target: the item at ``position`` of the sequence of ``user``."""

    user: int
    position: int


def places(sequences: Mapping[int, Sequence[int]], least: int) -> list[Place]:
    """Targets with ``least`` items or more before them."""
    return [Place(user, at) for user, sequence in sequences.items() for at in range(least, len(sequence))]


@dataclass(frozen=True)
class Chain:
    """Five stages about a history, its items by number.

    Attributes:
        evidence: See `gream.dialogue.ReasonedAnswer`.
        preference: Likewise.
        intent: Likewise.
        recommendation: Likewise.
        kept: Numbers of the history's items that stay, from 1.
        items: What it argues about: the history's items and then the next one, by their number in the catalogue.
        teacher: Who wrote it: the name of a language model, or `TEMPLATE`.
    """

    evidence: str
    preference: str
    intent: str
    recommendation: str
    kept: tuple[int, ...]
    items: tuple[int, ...]
    teacher: str

    def answer(self, history_ids: Sequence[str], target_id: str) -> ReasonedAnswer:
        """The same with semantic ids in place of numbers."""

        def named(text: str) -> str:
            return _REFERENCE.sub(lambda match: _id_of(int(match[1])), text)

        def _id_of(number: int) -> str:
            return history_ids[number - 1] if 1 <= number <= len(history_ids) else f"[{number}]"

        return ReasonedAnswer(
            evidence=named(self.evidence),
            preference=named(self.preference),
            intent=named(self.intent),
            recommendation=named(self.recommendation),
            history=tuple(_id_of(number) for number in self.kept),
            answer=target_id,
        )


def read_chains(path: Path) -> dict[Place, Chain]:
    """``chains.jsonl`` by place.

    Raises:
        GreamError: A line is no chain; names file and line.
    """
    chains = {}
    for number, row in iterate_jsonl(path):
        try:
            place = Place(row.pop("user"), row.pop("position"))
            chains[place] = Chain(**{**row, "kept": tuple(row["kept"]), "items": tuple(row["items"])})
        except (KeyError, TypeError):
            raise GreamError(f"{path}:{number}: no chain; run the stage 'chains' again") from None
    return chains
