"""Stage ``enrich``: the teacher's texts about items and users, from training interactions only."""

from __future__ import annotations

from pathlib import Path

from data_processing.config import RlConfig
from data_processing.reserve import without_reserved
from data_processing.tables import read_items, read_training_sequences, write_jsonl
from data_processing.teacher import describe_item, describe_user, state_intention


def enrich(rl: RlConfig, seed: int, interactions: Path, items: Path, out: Path) -> None:
    """Write ``enriched.jsonl`` (item, description) and ``preferences.jsonl`` (user, preferences, intention).

    The intention is for the last training item, and the preferences are those of the items before it, so that no
    preference has seen what the search task asks for.
    """
    catalogue = read_items(items)
    write_jsonl(
        out / "enriched.jsonl",
        ({"item": number, "description": describe_item(item)} for number, item in enumerate(catalogue)),
    )
    rows = []
    for user, sequence in without_reserved(rl, seed, read_training_sequences(interactions)).items():
        if len(sequence) < 2:
            continue
        preference = describe_user([catalogue[item] for item in sequence[:-1]])
        rows.append(
            {
                "user": user,
                "general": preference.general,
                "long_term": preference.long_term,
                "short_term": preference.short_term,
                "intention": state_intention(catalogue[sequence[-1]]),
            }
        )
    write_jsonl(out / "preferences.jsonl", rows)
