"""Stage ``sft``: alignment rows and reasoning rows, from training interactions only.

Alignment rows are written twice: as messages, for the plain ``llamafactory-cli``, and as the compact records that the
LLaMA-Factory plugin renders at load time. Reasoning rows are written in the order in which they are to be trained on.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from gream.errors import GreamError
from gream.files import Row, read_jsonl, write_json, write_jsonl, write_text
from gream.semantic_ids.catalog import Catalog
from gream.stage import Summary
from gream.tasks import ITEM_TEXTS, USER_TEXTS, Material, render_record

from ..config import RlConfig, SftConfig
from ..tables import Item, JsonlTable, read_items, read_training_sequences
from ..teacher.chains import read_chains
from .alignment import Records, draw_records
from .curriculum import CURRICULUM_STRETCH, chained_stages, like_length_order, steps_shown, training_order
from .length import check_fit, fitted_items
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
) -> Summary:
    """Write the ``sft`` folder: rows, ``dataset_info.json`` and ``statistics.json``.

    Where no target has a chain, the data set ``reasoning`` is left out: it would teach to answer without reasoning.

    Raises:
        GreamError: No item follows another one, or histories are too long for a row.
    """
    folder = out / "sft"
    folder.mkdir(exist_ok=True)
    catalog = Catalog.load(index)
    catalogue = read_items(items)
    sequences = without_reserved(rl, seed, read_training_sequences(interactions, refit=config.refit))
    random_ = random.Random(seed)
    if not len(sequences.targets(1)[0]):
        raise GreamError(
            f"{interactions}: no user has two training items, so that no row could ask for a next item; take users "
            "with four interactions or more (interactions.core), or lower rl.reserved"
        )
    check_fit(config, max(map(len, catalog.ids)))

    material, shortened = _material(catalog, catalogue, enriched, preferences, config.longest_row)
    material.save(folder)
    records = Records(sequences)
    for number in range(config.passes):
        before = len(records)
        draw_records(records, config, material, sequences, random_)
        records.shuffle(random_, before)
        if number == 0:
            first_pass = len(records)
        if 0 < config.alignment_rows <= len(records):
            break

    def message_row(number: int) -> Row:
        return {"messages": render_record(records[number], material)}

    # The curriculum mixes in rows of the first pass.
    curriculum = config.curriculum
    mixed = records.of_tasks(curriculum.tasks, first_pass)
    if config.batch:
        order = like_length_order(_lengths(map(message_row, range(len(records)))), config.batch, random_)
        mixed = np.argsort(order)[mixed]  # where they come to be
        records.reorder(order)
    write_jsonl(folder / "alignment_records.jsonl", records)
    write_jsonl(folder / "alignment.jsonl", map(message_row, range(len(records))))

    with TemporaryFile(dir=out) as file:
        reasoned, reasoning = reasoning_rows(
            config, catalog, catalogue, sequences, read_chains(chains) if chains else None, random_, file
        )
        steps = steps_shown(curriculum, len(reasoned))
        order = training_order(curriculum, len(mixed), len(reasoned), seed)

        def row(number: int) -> Row:
            if number < len(mixed):
                return message_row(mixed[number])
            return reasoned[number - len(mixed)].row(steps[number - len(mixed)])

        if curriculum.batch:
            order = order[like_length_order(_lengths(map(row, order)), curriculum.batch, random_, CURRICULUM_STRETCH)]
        parts = {"reasoning": order} if len(reasoned) else {}
        if parts and curriculum.stages > 1:
            stages = chained_stages(order, curriculum.stages)
            parts |= {f"reasoning_{number}": stage for number, stage in enumerate(stages, start=1)}

        for name, part in parts.items():
            write_jsonl(folder / f"{name}.jsonl", map(row, part))

    write_json(
        folder / "dataset_info.json",
        {
            "alignment": {"file_name": "alignment.jsonl", **_MESSAGES},
            **{name: {"file_name": f"{name}.jsonl", **_MESSAGES} for name in parts},
            "alignment_records": {"file_name": "alignment_records.jsonl", "formatting": "gream"},
        },
    )
    statistics = {
        "alignment": records.counts(),
        **reasoning,
        "alignment_rows_mixed_in": len(mixed),
        "texts_shortened": shortened,
        "longest_row": config.longest_row,
    }
    write_json(folder / "statistics.json", statistics)
    write_text(folder / "reasoning.html", reasoning_page(statistics, order, steps))
    return _summary(config, len(records), statistics, catalogue)


def _lengths(rows: Iterable[Row]) -> array[int]:
    """Characters of each row."""
    return array("i", (sum(len(message["content"]) for message in row["messages"]) for row in rows))


def _summary(config: SftConfig, rows: int, statistics: Mapping[str, Any], catalogue: Sequence[Item]) -> Summary:
    """What became of items and targets, and what to do where no chain was written."""
    targets, without = statistics["reasoning_targets"], statistics["reasoning_unsupported"]
    chains = statistics["reasoning"]
    made = [f"{rows:,} alignment rows", f"{chains:,} chains", f"{without:,} of {targets:,} targets without a chain"]
    if statistics["chains"]["rejected"]:
        made.append(f"{statistics['chains']['rejected']:,} chains rejected")
    made += [f"{count:,} {name}s shortened" for name, count in statistics["texts_shortened"].items()]
    if chains:
        return Summary(", ".join(made))
    if not targets:
        why = f"no training target has {config.reasoning_min_history} items before it; lower sft.reasoning_min_history"
    elif config.chains == "template" and not any(item.category or item.brand for item in catalogue):
        why = "the items have neither categories nor brands to argue with; add them, or take sft.chains=model"
    elif without == targets:
        why = "no history shares a category or brand with what follows; add categories, or take sft.chains=model"
    else:
        why = "all were rejected (see sft/reasoning.html)"
    return Summary(
        ", ".join(made),
        (
            f"no chain of reasoning for any of {targets:,} targets: {why}; the data set 'reasoning' is left out, and "
            "SRPO, which rewards reasoned answers, has nothing to start from",
        ),
    )


def _material(
    catalog: Catalog, catalogue: Sequence[Item], enriched: Path, preferences: Path, longest_row: int
) -> tuple[Material, dict[str, int]]:
    """Texts by number, and how many of each name were shortened."""
    items = []
    for item, row in zip(catalogue, read_jsonl(enriched, fields={"description": str}), strict=True):
        # The teacher's description stands in for the item's own.
        texts = {name: getattr(item, name) for name in ITEM_TEXTS} | {"description": row["description"]}
        items.append(texts)
    shortened = fitted_items(items, longest_row)
    users = JsonlTable(preferences, "user", USER_TEXTS)
    return Material(["".join(tokens) for tokens in catalog.ids], items, users), shortened
