"""Stage ``sft``: alignment rows and reasoning rows, from training interactions only.

Alignment rows are written twice: as messages, for the plain ``llamafactory-cli``, and as the compact records that the
LLaMA-Factory plugin renders at load time. Reasoning rows are written in the order in which they are to be trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gream.files import Row, read_jsonl, write_json, write_jsonl, write_text
from gream.semantic_ids.catalog import Catalog
from gream.tasks import ITEM_TEXTS, USER_TEXTS, Material, Record, render_record

from ..config import RlConfig, SftConfig
from ..tables import Item, read_items, read_training_sequences
from ..teacher.chains import read_chains
from .alignment import alignment_records
from .curriculum import chained_stages, like_length_order, steps_shown, training_order
from .reasoning import reasoning_rows
from .reasoning_page import reasoning_page
from .reserve import without_reserved

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
    chains: Path | None,
    out: Path,
) -> None:
    """Write the ``sft`` folder: rows, ``dataset_info.json`` and ``statistics.json``."""
    folder = out / "sft"
    folder.mkdir(exist_ok=True)
    catalog = Catalog.load(index)
    catalogue = read_items(items)
    sequences = without_reserved(rl, seed, read_training_sequences(interactions))
    random_ = random.Random(seed)

    material = _material(catalog, catalogue, enriched, preferences)
    material.save(folder)
    records: list[Record] = []
    for _ in range(config.passes):
        drawn = alignment_records(config, material, sequences, random_)
        random_.shuffle(drawn)
        records += drawn
    alignment = [{"messages": render_record(record, material)} for record in records]
    # The curriculum mixes in rows of the first pass.
    curriculum = config.curriculum
    first_pass = zip(alignment[: len(drawn)], records, strict=False)
    mixed = [row for row, record in first_pass if record["task"] in curriculum.tasks]
    if config.batch:
        lengths = [sum(len(message["content"]) for message in row["messages"]) for row in alignment]
        order = like_length_order(lengths, config.batch, random_)
        records, alignment = [records[number] for number in order], [alignment[number] for number in order]
    write_jsonl(folder / "alignment_records.jsonl", records)
    write_jsonl(folder / "alignment.jsonl", alignment)

    reasoned, reasoning = reasoning_rows(
        config, catalog, catalogue, sequences, read_chains(chains) if chains else None, random_
    )
    steps = steps_shown(curriculum, len(reasoned))
    rows = [*mixed, *(row.row(shown) for row, shown in zip(reasoned, steps, strict=True))]
    order = training_order(curriculum, len(mixed), len(reasoned), seed)
    parts = {"reasoning": order}
    if curriculum.stages > 1:
        stages = chained_stages(order, curriculum.stages)
        parts |= {f"reasoning_{number}": stage for number, stage in enumerate(stages, start=1)}
    for name, part in parts.items():
        write_jsonl(folder / f"{name}.jsonl", (rows[number] for number in part))

    write_json(
        folder / "dataset_info.json",
        {
            "alignment": {"file_name": "alignment.jsonl", **_MESSAGES},
            **{name: {"file_name": f"{name}.jsonl", **_MESSAGES} for name in parts},
            "alignment_records": {"file_name": "alignment_records.jsonl", "formatting": "gream"},
        },
    )
    statistics = {
        "alignment": dict(sorted(Counter(record["task"] for record in records).items())),
        **reasoning,
        "alignment_rows_mixed_in": len(mixed),
    }
    write_json(folder / "statistics.json", statistics)
    write_text(folder / "reasoning.html", reasoning_page(statistics, order, steps))


def _material(catalog: Catalog, catalogue: Sequence[Item], enriched: Path, preferences: Path) -> Material:
    items = []
    for item, row in zip(catalogue, read_jsonl(enriched, fields={"description": str}), strict=True):
        # The teacher's description stands in for the item's own.
        texts = {name: getattr(item, name) for name in ITEM_TEXTS} | {"description": row["description"]}
        items.append(texts)
    users = {row["user"]: {name: row[name] for name in USER_TEXTS} for row in read_jsonl(preferences)}
    return Material([catalog.text(number) for number in range(len(catalog))], items, users)
