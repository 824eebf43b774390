"""Stage ``rl``: SRPO's prompts as verl reads them: training targets to train, the validation item to validate."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
from gream.dialogue import reasoning_prompt
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog

from ..config import RlConfig
from ..tables import read_sequences
from .reserve import reserved_users


def build_rl(config: RlConfig, history: int, seed: int, interactions: Path, index: Path, out: Path) -> None:
    """Write ``rl/train.parquet`` and ``rl/val.parquet``.

    Args:
        config: See `RlConfig`.
        history: Most recent items a prompt shows.
        seed: Draws the validation users and the order of training prompts.
        interactions: ``interactions.parquet``.
        index: ``index.json``.
        out: Folder written to.

    Raises:
        GreamError: No sequence is long enough.
    """
    catalog = Catalog.load(index)
    sequences = read_sequences(interactions)
    random_ = random.Random(seed)

    def row(user: int, position: int, split: str, number: int) -> dict[str, Any]:
        shown = sequences[user][max(0, position - history) : position]
        return {
            "data_source": "gream",
            "prompt": reasoning_prompt([catalog.text(item) for item in shown]),
            "ability": "recommendation",
            "reward_model": {"style": "rule", "ground_truth": catalog.text(sequences[user][position])},
            "extra_info": {"index": number, "user": user, "split": split},
        }

    # The last two items of a sequence are the validation and the test target.
    training = {user: sequence[:-2] for user, sequence in sequences.items()}
    if config.reserved:
        places = [(user, len(training[user]) - 1) for user in sorted(reserved_users(config, seed, training))]
    else:
        places = [
            (user, position)
            for user, sequence in training.items()
            for position in range(config.min_history, len(sequence))
        ]
    if not places:
        raise GreamError(
            f"{interactions}: no training target has {config.min_history} items before it; lower rl.min_history"
        )
    random_.shuffle(places)
    users = sorted(random_.sample(sorted(sequences), min(config.validation_users, len(sequences))))
    (out / "rl").mkdir(exist_ok=True)
    train = [row(user, position, "train", number) for number, (user, position) in enumerate(places)]
    val = [row(user, len(sequences[user]) - 2, "valid", number) for number, user in enumerate(users)]
    pl.DataFrame(train).write_parquet(out / "rl" / "train.parquet")
    pl.DataFrame(val).write_parquet(out / "rl" / "val.parquet")
