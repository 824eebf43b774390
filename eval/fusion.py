"""Item scores for a model's lists, and their weight, chosen on validation.

``transitions`` are the baseline's own scores, of the training part, with the weights that validation chooses for it. A
file holds scores made elsewhere, of the validation users and of those who are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.counted.transitions import Transitions, Weights
from gream.engine.engine import Answer, Query
from gream.engine.fusion import Candidates, ItemScores
from gream.errors import GreamError
from gream.protocol import VALIDATION_USERS, Cases, held_out
from gream.tables import read_table

from .metrics import CUTOFFS

# Validation users whom the model is asked about, at most, to choose the weight.
FUSION_USERS = 2000
# What item scores count for, beside log-probabilities in nats; 0 leaves the model alone.
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def choose_weights(
    counts: Transitions, interactions: pl.DataFrame, seed: int, *, allow_history: bool
) -> tuple[Weights, dict[Weights, float]]:
    """The weights that are best on validation users, and the NDCG@10 of all; see `Transitions.choose`."""
    return counts.choose(held_out(interactions, "valid").at_most(VALIDATION_USERS, seed), allow_history=allow_history)


def candidates_table(cases: Cases, answers: Sequence[Answer]) -> pl.DataFrame:
    """What the lists of some users were chosen from, a row per user; see `Candidates`."""
    rows = []
    for user, target, answer in zip(cases.users.tolist(), cases.targets.tolist(), answers, strict=True):
        assert answer.candidates is not None  # noqa: S101 - the engine fuses
        values = (values.tolist() for values in vars(answer.candidates).values())
        rows.append((user, target, *values))
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "user": pl.Int32,
        "target": pl.Int32,
        "items": pl.List(pl.Int32),
        "logs": pl.List(pl.Float64),
        "scores": pl.List(pl.Float64),
        "found": pl.List(pl.Boolean),
        "place": pl.List(pl.Int32),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def candidates_in(table: pl.DataFrame) -> list[Candidates]:
    """What `candidates_table` wrote."""
    return [
        Candidates(
            np.array(row["items"], dtype=np.int64),
            np.array(row["logs"], dtype=np.float64),
            np.array(row["scores"], dtype=np.float64),
            np.array(row["found"], dtype=bool),
            np.array(row["place"], dtype=np.int64),
        )
        for row in table.iter_rows(named=True)
    ]


def gains_by_weight(
    candidates: Sequence[Candidates], targets: npt.NDArray[np.integer[Any]], weights: Sequence[float] = WEIGHTS
) -> dict[float, float]:
    """Mean NDCG@10 of the fused lists for each weight."""
    gains = dict.fromkeys(weights, 0.0)
    for own, target in zip(candidates, targets.tolist(), strict=True):
        for weight in weights:
            place = np.flatnonzero(own.items[own.best(weight, CUTOFFS[-1])] == target)
            gains[weight] += float(1 / np.log2(place[0] + 2)) if len(place) else 0.0
    return {weight: gain / len(candidates) for weight, gain in gains.items()}


def best_weight(gains: dict[float, float]) -> float:
    """The weight of the highest gain; ties to the smaller."""
    return max(gains, key=lambda weight: (gains[weight], -weight))


@dataclass(frozen=True)
class FileScores:
    """Item scores from a file: columns ``user``, ``item``, ``score``, ``split`` ("valid" or "test"), by name.

    An item that the file does not name for a user has the user's lowest score in it.

    Attributes:
        rows: Items and their scores of each split and user number.
        items: Size of the catalogue.
        path: Of the file.
    """

    rows: dict[tuple[str, int], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
    items: int
    path: Path

    @staticmethod
    def load(path: Path, run: Path) -> FileScores:
        """Read a ``.parquet`` or ``.csv`` file.

        Raises:
            GreamError: It cannot be read, lacks a column, names an unknown user or item, or a score is not finite.
        """
        table = _score_table(path)
        users = read_table(run / "users.parquet", "user", "user_id")
        items = read_table(run / "items.parquet", "item", "item_id")
        named = table.with_row_index("line", offset=1).rename({"user": "user_id", "item": "item_id"})
        joined = named.join(users, on="user_id", how="left").join(items, on="item_id", how="left").sort("line")
        for column, number in (("user_id", "user"), ("item_id", "item")):
            unknown = joined.filter(pl.col(number).is_null())
            if len(unknown):
                line, name = unknown.row(0, named=True)["line"], str(unknown[column][0])[:60]
                raise GreamError(f"{path}: row {line}: no {number} of this run is called '{name}'")
        broken = joined.filter(
            ~pl.col("score").is_finite().fill_null(False) | ~pl.col("split").is_in(["valid", "test"])
        )
        if len(broken):
            raise GreamError(
                f"{path}: row {broken['line'][0]}: a finite score and the split 'valid' or 'test' are expected"
            )
        groups = joined.group_by("split", "user", maintain_order=True).agg("item", "score")
        rows = {
            (row["split"], row["user"]): (np.array(row["item"], dtype=np.int64), np.array(row["score"]))
            for row in groups.iter_rows(named=True)
        }
        return FileScores(rows, len(items), path)

    def of(self, split: str) -> ItemScores:
        """Those of the users of a split, "valid" or "test"; users go by the keys of their queries."""

        def scores(queries: Sequence[Query]) -> npt.NDArray[np.floating[Any]]:
            table = np.empty((len(queries), self.items))
            for row, query in zip(table, queries, strict=True):
                if (split, query.key) not in self.rows:
                    raise GreamError(f"{self.path}: has no {split} scores of user number {query.key}")
                items, own = self.rows[split, query.key]
                row[:] = own.min()
                row[items] = own
            return table

        return scores


def _score_table(path: Path) -> pl.DataFrame:
    wanted = {"user": pl.String, "item": pl.String, "score": pl.Float64, "split": pl.String}
    if path.suffix == ".parquet":
        table = read_table(path)
    elif path.suffix == ".csv":
        try:
            with path.open("rb") as stream:
                table = pl.read_csv(stream, infer_schema=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise GreamError(f"{path}: cannot be read: {' '.join(str(error).split())[:160]}") from None
    else:
        raise GreamError(f"--fuse {path}: 'transitions', or a file in .csv or .parquet")
    lacking = [name for name in wanted if name not in table.columns]
    if lacking:
        raise GreamError(f"{path}: has no column '{lacking[0]}'; user, item, score and split are needed")
    try:
        table = table.select(list(wanted)).cast(wanted)  # type: ignore[arg-type] # dtypes by name
    except pl.exceptions.PolarsError as error:
        raise GreamError(f"{path}: a score is no number: {' '.join(str(error).split())[:160]}") from None
    if table.is_empty():
        raise GreamError(f"{path}: holds no scores")
    return table
