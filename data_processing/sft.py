"""Stage ``sft``: alignment rows and reasoning rows, from training interactions only.

Alignment rows are written twice: as messages, for the plain ``llamafactory-cli``, and as the compact records that the
LLaMA-Factory plugin renders at load time. Reasoning rows are written in the order in which they are to be trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gream.dialogue import join_history, reasoning_prompt
from gream.semantic_ids.catalog import Catalog
from gream.stage import write_json
from gream.tasks import TEMPLATES, Task, render_task

from data_processing.config import RlConfig, SftConfig
from data_processing.reserve import without_reserved
from data_processing.tables import Item, read_items, read_jsonl, read_training_sequences, write_jsonl
from data_processing.teacher import argue, usual_successors

Row = dict[str, Any]
T = TypeVar("T")

# A column of OpenAI-style messages, as LLaMA-Factory's dataset_info.json describes it.
_MESSAGES: Row = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def build_sft(
    config: SftConfig,
    rl: RlConfig,
    seed: int,
    *,
    interactions: Path,
    items: Path,
    enriched: Path,
    preferences: Path,
    index: Path,
    out: Path,
) -> None:
    """Write the ``sft`` folder: rows, ``dataset_info.json`` and ``statistics.json``."""
    folder = out / "sft"
    folder.mkdir(exist_ok=True)
    catalog = Catalog.load(index)
    catalogue = read_items(items)
    sequences = without_reserved(rl, seed, read_training_sequences(interactions))
    descriptions = [row["description"] for row in read_jsonl(enriched)]
    random_ = random.Random(seed)

    records = _alignment_records(
        config,
        catalog,
        catalogue,
        sequences,
        descriptions,
        {row["user"]: row for row in read_jsonl(preferences)},
        random_,
    )
    random_.shuffle(records)
    write_jsonl(folder / "alignment_records.jsonl", records)
    alignment = [{"messages": render_task(**record)} for record in records]
    write_jsonl(folder / "alignment.jsonl", alignment)

    reasoning, unsupported = _reasoning_rows(config, catalog, catalogue, sequences, random_)
    direct = [row for row, record in zip(alignment, records, strict=True) if record["task"] == "next_item"]
    write_jsonl(folder / "reasoning.jsonl", ramp(direct, reasoning))

    write_json(
        folder / "dataset_info.json",
        {
            "alignment": {"file_name": "alignment.jsonl", **_MESSAGES},
            "reasoning": {"file_name": "reasoning.jsonl", **_MESSAGES},
            "alignment_records": {"file_name": "alignment_records.jsonl", "formatting": "gream"},
        },
    )
    write_json(
        folder / "statistics.json",
        {
            "alignment": dict(sorted(Counter(record["task"] for record in records).items())),
            "reasoning": len(reasoning),
            "reasoning_unsupported": unsupported,
            "direct_rows_mixed_in": len(direct),
        },
    )


def _alignment_records(
    config: SftConfig,
    catalog: Catalog,
    catalogue: Sequence[Item],
    sequences: dict[int, list[int]],
    descriptions: Sequence[str],
    preferences: dict[int, Row],
    random_: random.Random,
) -> list[Row]:
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


def _reasoning_rows(
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


def ramp(direct: Sequence[T], reasoning: Sequence[T]) -> list[T]:
    """Merge two lists so that the share of the second grows evenly from the first row to the last.

    The order within each list is kept. With m the overall share of ``reasoning``, its share at progress t in 0..1 is
    m + a (2t - 1), a = min(m, 1 - m): from nothing, or to everything, by a straight line.
    """
    total = len(direct) + len(reasoning)
    if not direct or not reasoning:
        return [*direct, *reasoning]
    mean = len(reasoning) / total
    slope = min(mean, 1 - mean)
    grid = np.linspace(0, 1, 4 * total + 1)
    lift = slope * (grid**2 - grid)  # integral of slope * (2t - 1)
    times = np.concatenate(
        [
            np.interp((np.arange(len(direct)) + 0.5) / len(direct), ((1 - mean) * grid - lift) / (1 - mean), grid),
            np.interp((np.arange(len(reasoning)) + 0.5) / len(reasoning), (mean * grid + lift) / mean, grid),
        ]
    )
    both = [*direct, *reasoning]
    return [both[index] for index in np.argsort(times, kind="stable")]
