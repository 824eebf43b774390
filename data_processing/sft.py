"""Stage ``sft``: alignment rows and reasoning rows, from training interactions only.

Alignment rows are written twice: as messages, for the plain ``llamafactory-cli``, and as the compact records that the
LLaMA-Factory plugin renders at load time. Reasoning rows are written in the order in which they are to be trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gream.semantic_ids.catalog import Catalog
from gream.stage import write_json
from gream.tasks import ITEM_TEXTS, USER_TEXTS, Material, render_record

from data_processing.alignment import alignment_records
from data_processing.config import RlConfig, SftConfig
from data_processing.curriculum import ramp
from data_processing.reasoning import reasoning_rows
from data_processing.reserve import without_reserved
from data_processing.tables import Item, Row, read_items, read_jsonl, read_training_sequences, write_jsonl

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
    random_ = random.Random(seed)

    material = _material(catalog, catalogue, enriched, preferences)
    material.save(folder)
    records = alignment_records(config, material, sequences, random_)
    random_.shuffle(records)
    write_jsonl(folder / "alignment_records.jsonl", records)
    alignment = [{"messages": render_record(record, material)} for record in records]
    write_jsonl(folder / "alignment.jsonl", alignment)

    reasoning, unsupported = reasoning_rows(config, catalog, catalogue, sequences, random_)
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


def _material(catalog: Catalog, catalogue: Sequence[Item], enriched: Path, preferences: Path) -> Material:
    items = []
    for item, row in zip(catalogue, read_jsonl(enriched), strict=True):
        # The teacher's description stands in for the item's own.
        texts = {name: getattr(item, name) for name in ITEM_TEXTS} | {"description": row["description"]}
        items.append(texts)
    users = {row["user"]: {name: row[name] for name in USER_TEXTS} for row in read_jsonl(preferences)}
    return Material([catalog.text(number) for number in range(len(catalog))], items, users)
