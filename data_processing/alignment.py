"""Alignment records: the tasks that tie semantic ids to language and to histories (paper, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from gream.dialogue import join_history
from gream.semantic_ids.catalog import Catalog
from gream.tasks import TEMPLATES, Task

from data_processing.config import SftConfig
from data_processing.tables import Item, Row

T = TypeVar("T")


def alignment_records(
    config: SftConfig,
    catalog: Catalog,
    catalogue: Sequence[Item],
    sequences: dict[int, list[int]],
    descriptions: Sequence[str],
    preferences: dict[int, Row],
    random_: random.Random,
) -> list[Row]:
    """Records of task, wording and the slots it uses, as often as ``config`` says for each task.

    Args:
        config: Rows per item, history or user, for each task.
        catalog: Semantic ids.
        catalogue: Items by number.
        sequences: Training items of each user, oldest first.
        descriptions: Rewritten descriptions by item number.
        preferences: Texts of the teacher by user, with the wanted item's intention and query.
        random_: Draws the wordings.
    """
    records: list[Row] = []

    def add(task: Task, slots: dict[str, str], times: int) -> None:
        usable = [
            number
            for number, wording in enumerate(TEMPLATES[task])
            # An item without brand or category cannot be asked for them.
            if all(value for name, value in slots.items() if f"{{{name}}}" in wording.question + wording.answer)
        ]
        for number in _draw(usable, times, random_):
            wording = TEMPLATES[task][number]
            used = {name: value for name, value in slots.items() if f"{{{name}}}" in wording.question + wording.answer}
            records.append({"task": task, "template": number, "slots": used})

    for number, item in enumerate(catalogue):
        slots = {
            "item": catalog.text(number),
            "title": item.title,
            "description": descriptions[number],
            "brand": item.brand,
            "category": item.category,
        }
        add("id_to_text", slots, config.id_to_text)
        add("text_to_id", slots, config.text_to_id)

    for user, sequence in sequences.items():
        for position in range(1, len(sequence)):
            history = sequence[max(0, position - config.history) : position]
            target = catalogue[sequence[position]]
            slots = {
                "history": join_history([catalog.text(item) for item in history]),
                "titles": "; ".join(catalogue[item].title for item in history[-5:]),
                "target": catalog.text(sequence[position]),
                "title": target.title,
                "category": target.category,
            }
            add("next_item", slots, config.next_item)
            if position == len(sequence) - 1:
                add("fused_next", slots, config.fused_next)
                if user in preferences:
                    add("search", {**slots, **_texts(preferences[user])}, config.search)
                    add("preference", {**slots, **_texts(preferences[user])}, config.preference)
    return records


def _texts(preference: Row) -> dict[str, str]:
    return {name: value for name, value in preference.items() if name != "user"}


def _draw(choices: Sequence[T], times: int, random_: random.Random) -> list[T]:
    """``times`` choices, every one as often as the others but for the last round."""
    drawn: list[T] = []
    while choices and len(drawn) < times:
        drawn += random_.sample(choices, min(len(choices), times - len(drawn)))
    return drawn
