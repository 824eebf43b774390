"""Alignment records: the tasks that tie semantic ids to language and to histories (paper, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from gream.tasks import Material, Record, wordings_for
from gream.templates import Task

from ..config import SftConfig

# What a task shows of a user's past, beside the item it is about.
_SHOWS_HISTORY: tuple[Task, ...] = ("next_item", "fused_next", "search", "preference")
_SHOWS_USER: tuple[Task, ...] = ("search", "preference")


def alignment_records(
    config: SftConfig, material: Material, sequences: Mapping[int, Sequence[int]], random_: random.Random
) -> list[Record]:
    """Records of every task, as often as ``config`` says, grouped by task.

    Args:
        config: Rows per item, training target or user, for each task.
        material: Items and users.
        sequences: Training items of each user, oldest first.
        random_: Draws the wordings, and which items, targets or users have a row more than others.
    """
    items = [_record(item, [], -1) for item in range(len(material.ids))]
    targets = [
        _record(sequence[position], list(sequence[max(0, position - config.history) : position]), user)
        for user, sequence in sequences.items()
        for position in range(1, len(sequence))
    ]
    last = [
        _record(sequence[-1], list(sequence[max(0, len(sequence) - 1 - config.history) : -1]), user)
        for user, sequence in sequences.items()
        if len(sequence) > 1 and user in material.users
    ]
    plans: tuple[tuple[Task, float, Sequence[Record]], ...] = (
        ("id_to_text", config.id_to_text, items),
        ("text_to_id", config.text_to_id, items),
        ("next_item", config.next_item, targets),
        ("fused_next", config.fused_next, targets),
        ("search", config.search, last),
        ("preference", config.preference, last),
    )
    records = [record for task, rate, subjects in plans for record in _rows(task, rate, subjects, material, random_)]
    if config.sequence:
        seen = (_thinned(sequence, config.sequence_drop, random_) for sequence in sequences.values())
        records += [_sequence(part) for sequence in seen for part in _parts(sequence, config)]
    return records


def _record(item: int, history: list[int], user: int) -> Record:
    return {"task": "", "template": 0, "item": item, "history": history, "user": user}


def _sequence(items: Sequence[int]) -> Record:
    return {"task": "sequence", "template": 0, "item": -1, "history": list(items), "user": -1}


def _thinned(sequence: Sequence[int], drop: float, random_: random.Random) -> Sequence[int]:
    """``sequence`` without the share ``drop`` of its items; whole where fewer than two would be left."""
    if not drop:
        return sequence
    kept = [item for item in sequence if random_.random() >= drop]
    return kept if len(kept) > 1 else sequence


def _parts(sequence: Sequence[int], config: SftConfig) -> Iterator[Sequence[int]]:
    """Consecutive parts of at most ``config.sequence_items`` items, so that each item is a target once."""
    for start in range(0, len(sequence), config.sequence_items):
        yield sequence[start : start + config.sequence_items]


def _rows(
    task: Task, rate: float, subjects: Sequence[Record], material: Material, random_: random.Random
) -> Iterator[Record]:
    """``rate`` rows per subject; of a fraction, that share of the subjects has one more, drawn without replacement."""
    whole = int(rate)
    more = set(random_.sample(range(len(subjects)), round((rate - whole) * len(subjects))))
    for number, subject in enumerate(subjects):
        record: Record = {
            **subject,
            "task": task,
            "history": subject["history"] if task in _SHOWS_HISTORY else [],
            "user": subject["user"] if task in _SHOWS_USER else -1,
        }
        # An item without brand or description cannot be asked for them.
        usable = wordings_for(task, material.filled(record))
        for template in _draw(task, usable, whole + (number in more), random_):
            yield {**record, "template": template}


def _draw(task: Task, usable: Sequence[int], times: int, random_: random.Random) -> list[int]:
    """``times`` wordings, every one as often as the others but for the last round.

    The first row of a target is in the wording that evaluation uses.
    """
    drawn = list(usable[:1]) if task == "next_item" and times else []
    while usable and len(drawn) < times:
        drawn += random_.sample(usable, min(len(usable), times - len(drawn)))
    return drawn
