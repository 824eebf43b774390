"""Reasoning rows: prompts whose answer is a chain in five stages and an item (paper, section 3.3)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gream.dialogue import reasoning_prompt
from gream.semantic_ids.catalog import Catalog

from data_processing.config import SftConfig
from data_processing.tables import Item, Row
from data_processing.teacher import argue, usual_successors


def reasoning_rows(
    config: SftConfig,
    catalog: Catalog,
    catalogue: Sequence[Item],
    sequences: dict[int, list[int]],
    random_: random.Random,
) -> tuple[list[Row], int]:
    """Reasoning rows, short histories first, and how many targets no chain could be argued for."""
    successors = usual_successors([[catalogue[item] for item in sequence] for sequence in sequences.values()])
    examples = [
        (sequence, position)
        for sequence in sequences.values()
        for position in range(config.reasoning_min_history, len(sequence))
    ]
    rows: list[tuple[float, Row]] = []
    unsupported: set[int] = set()
    for repeat in range(max(1, round(config.reasoning_rows / max(1, len(examples))))):
        for number, (sequence, position) in enumerate(examples):
            history = sequence[max(0, position - config.history) : position]
            ids = [catalog.text(item) for item in history]
            answer = argue(
                [catalogue[item] for item in history],
                catalogue[sequence[position]],
                ids,
                catalog.text(sequence[position]),
                successors,
                random_,
            )
            if answer is None:
                unsupported.add(number)
                continue
            row = {"messages": [*reasoning_prompt(ids), {"role": "assistant", "content": answer.render()}]}
            # Every pass goes from short to long; the fraction shuffles histories of one length.
            rows.append((repeat * (config.history + 1) + len(history) + random_.random(), row))
    rows.sort(key=lambda pair: pair[0])
    return [row for _, row in rows], len(unsupported)
