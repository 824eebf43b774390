"""Stage ``enrich``: a teacher's texts about items and users, from training interactions only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from gream.files import write_jsonl
from gream.stage import Summary

from ..config import RlConfig
from ..rows.reserve import without_reserved
from ..tables import Item, read_items, read_training_sequences
from .template import describe_item, describe_user, state_intention


class Subject(NamedTuple):
    """What a text is about.

    Attributes:
        kind: Of text.
        number: Of the item for a description, of the user for the others.
    """

    kind: Literal["description", "preference", "intention"]
    number: int


@dataclass(frozen=True)
class Material:
    """What a teacher may know.

    Attributes:
        catalogue: All items, item 0 first.
        sequences: Items of each user's training part, reserved targets left out.
    """

    catalogue: Sequence[Item]
    sequences: Mapping[int, Sequence[int]]

    @property
    def users(self) -> list[int]:
        """Those with both a history and an item that it leads to."""
        return [user for user, sequence in self.sequences.items() if len(sequence) >= 2]

    def history(self, user: int) -> list[Item]:
        """What the preferences are drawn from: it ends before the item that the intention leads to."""
        return [self.catalogue[item] for item in self.sequences[user][:-1]]

    def wanted(self, user: int) -> Item:
        """What the intention leads to: the last training item."""
        return self.catalogue[self.sequences[user][-1]]


def read_material(rl: RlConfig, seed: int, interactions: Path | None, items: Path) -> Material:
    """Items and training sequences of a run; a run of items alone has none."""
    sequences = without_reserved(rl, seed, read_training_sequences(interactions)) if interactions else {}
    return Material(read_items(items), sequences)


def template_text(material: Material, subject: Subject) -> Mapping[str, str]:
    """A text as the template teacher writes it, under the names of the output's columns."""
    if subject.kind == "description":
        return {"description": describe_item(material.catalogue[subject.number])}
    if subject.kind == "preference":
        return asdict(describe_user(material.history(subject.number)))
    return {"intention": state_intention(material.wanted(subject.number))}


def write_texts(material: Material, text_of: Callable[[Subject], Mapping[str, str]], out: Path) -> Summary:
    """Write ``enriched.jsonl`` (item, description) and ``preferences.jsonl`` (user, preferences, intention)."""
    users = material.users
    write_jsonl(
        out / "enriched.jsonl",
        ({"item": number, **text_of(Subject("description", number))} for number in range(len(material.catalogue))),
    )
    write_jsonl(
        out / "preferences.jsonl",
        (
            {"user": user, **text_of(Subject("preference", user)), **text_of(Subject("intention", user))}
            for user in users
        ),
    )
    return Summary(f"texts of {len(material.catalogue):,} items and {len(users):,} users")


def enrich(rl: RlConfig, seed: int, interactions: Path | None, items: Path, out: Path) -> Summary:
    """Write both files with the template teacher."""
    material = read_material(rl, seed, interactions, items)
    return write_texts(material, lambda subject: template_text(material, subject), out)
