"""Stage ``rl``: SRPO's prompts as verl reads them: training targets to train, the validation item to validate."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.dialogue import reasoning_prompt
from gream.errors import GreamError
from gream.files import Row
from gream.semantic_ids.catalog import Catalog
from gream.stage import Summary

from ..config import RlConfig
from ..tables import read_sequences, write_rows
from .reserve import reserved_users

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "data_source": pl.String,
    "prompt": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "ability": pl.String,
    "reward_model": pl.Struct({"style": pl.String, "ground_truth": pl.String}),
    "extra_info": pl.Struct({"index": pl.Int64, "user": pl.Int64, "split": pl.String}),
}


def build_rl(config: RlConfig, history: int, seed: int, interactions: Path, index: Path, out: Path) -> Summary:
    """Write ``rl/train.parquet`` and ``rl/val.parquet``.

    Args:
        config: See `RlConfig`.
        history: Most recent items a prompt shows.
        seed: Draws the validation users and the order of training prompts.
        interactions: ``interactions.parquet``.
        index: ``index.json``.
        out: Folder written to.

    Raises:
        GreamError: No sequence is long enough, for training or for validation.
    """
    ids = ["".join(tokens) for tokens in Catalog.load(index).ids]
    sequences = read_sequences(interactions)
    random_ = random.Random(seed)
    # The last two items of a sequence are the validation and the test target.
    training = sequences.shortened(2)
    rows, positions = training.targets(0 if config.reserved else config.min_history)
    if config.reserved:
        last = np.isin(training.users[rows], list(reserved_users(config, seed, training)))
        last &= positions == training.lengths[rows] - 1
        rows, positions = rows[last], positions[last]
    if not len(rows):
        raise GreamError(
            f"{interactions}: no training target has {config.min_history} items before it; lower rl.min_history"
        )
    order = np.arange(len(rows))
    random_.shuffle(order)  # type: ignore[arg-type] # an array is as good as a list here
    # A validation prompt holds everything before the last two items: as many are needed as in training.
    long_enough = sequences.users[sequences.lengths - 2 >= config.min_history].tolist()
    if not long_enough:
        raise GreamError(
            f"{interactions}: no validation item has {config.min_history} items before it; lower rl.min_history"
        )
    users = sorted(random_.sample(long_enough, min(config.validation_users, len(long_enough))))
    asked = np.searchsorted(sequences.users, users)

    (out / "rl").mkdir(exist_ok=True)

    def write(name: str, split: str, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
        ends = sequences.start[rows] + positions  # of the history in the items
        begins = np.maximum(ends - history, sequences.start[rows])

        def row(number: int) -> Row:
            shown = sequences.flat[begins[number] : ends[number]].tolist()
            return {
                "data_source": "gream",
                "prompt": reasoning_prompt([ids[item] for item in shown]),
                "ability": "recommendation",
                "reward_model": {"style": "rule", "ground_truth": ids[sequences.flat[ends[number]]]},
                "extra_info": {"index": number, "user": int(sequences.users[rows[number]]), "split": split},
            }

        write_rows(out / "rl" / f"{name}.parquet", map(row, range(len(rows))), _SCHEMA)

    write("train", "train", rows[order], positions[order])
    write("val", "valid", asked, sequences.lengths[asked] - 2)
    return Summary(f"{len(rows):,} prompts to train on, {len(asked):,} to validate with")
