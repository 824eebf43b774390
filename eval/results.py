"""What an evaluation leaves behind: ``predictions.parquet`` and ``metrics.json``, and the schema of the latter."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.config import Config
from gream.errors import GreamError
from gream.files import read_json, write_json
from gream.protocol import Fitted, History, Split
from gream.provenance import version_and_commit, versions
from gream.stage import Summary
from pydantic import Field, FiniteFloat, ValidationError

Mode = Literal[
    "popularity", "cooccurrence", "markov", "transitions", "sasrec", "direct", "reasoning", "sampled", "imported"
]
BASELINES: tuple[Mode, ...] = ("popularity", "cooccurrence", "markov", "transitions", "sasrec")

# What to do about an evaluation whose files are broken.
AGAIN = "evaluate again with --overwrite"

PREDICTIONS_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user": pl.Int32,
    "target": pl.Int32,
    "items": pl.List(pl.Int32),
    "scores": pl.List(pl.Float32),
    "chain": pl.String,
    "malformed": pl.Boolean,
}


class Interval(Config):
    """A mean with its 95 % bootstrap interval.

    Attributes:
        value: The mean.
        low: 2.5th percentile of the resampled means.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float


class Exposure(Config):
    """How lists spread over the catalogue.

    Attributes:
        coverage: Share of the catalogue that is in some list.
        gini: Inequality of how often items are in lists: 0 where all are equally often.
        novelty: Mean self-information of a recommended item in bits: minus log2 of the share of training
            users who have it.
        popularity: Training interactions of a recommended item, averaged over each list and then over users.
        popularity_lift: That against the same average of users' histories, minus 1 (Abdollahpouri et al. 2020):
            above 0 where lists are more popular than what users chose themselves.
    """

    coverage: float
    gini: float
    novelty: float
    popularity: float
    popularity_lift: float


class Cost(Config):
    """What lists took to make; seconds differ from run to run.

    Attributes:
        latency_p50: Seconds from handing over a user, with the batch or with requests of others in flight, until the
            user's list is there, median over users.
        latency_p95: The same, 95th percentile.
        prompt_tokens: Read per user, mean.
        written_tokens: Written per user before the items, all chains together, mean.
    """

    latency_p50: float
    latency_p95: float
    prompt_tokens: float
    written_tokens: float


class Result(Config):
    """``metrics.json``.

    Attributes:
        name: Name of the evaluation: its folder under ``eval/``.
        mode: How items were found.
        split: Whose item was to be predicted.
        history: Whether lists may hold what the user already has.
        fitted: Interactions that were counted or trained on, see `gream.protocol.Protocol`; None for a model that does
            not say it.
        checkpoint: The model, relative to the run folder where it lies in it; None for baselines.
        users: Users asked.
        k: Items per list.
        metrics: See `eval.metrics.metric_names`.
        invalid_rate: Share of recommended items that the catalogue does not hold.
        duplicates: Lists that hold an item twice.
        malformed_rate: Share of chains that never reached ``<answer>``; None where no chain was written.
        seconds_per_user: Wall time of prediction, per user: one over the throughput; it differs from run to run.
            None for lists made elsewhere.
        exposure: How the lists spread over the catalogue; None in files of earlier versions.
        cost: None for baselines and in files of earlier versions.
        pass_at: ``pass@K`` of sampled answers; None for lists.
        alone: What the model and the item scores of fused lists rank alone: metrics, by name of the part.
        seed: Seed of the sample of users, the bootstrap and sampled chains.
        settings: Every decoding setting by name.
        versions: Python and the packages that took part.
        command: What was typed.
    """

    name: str
    mode: Mode
    split: Split
    history: History
    fitted: Fitted | None = None
    checkpoint: str | None
    users: int = Field(ge=1)
    k: int
    metrics: dict[str, Interval]
    invalid_rate: FiniteFloat
    duplicates: int
    malformed_rate: FiniteFloat | None
    seconds_per_user: FiniteFloat | None
    exposure: Exposure | None = None
    cost: Cost | None = None
    pass_at: dict[str, Interval] | None = None
    alone: dict[str, dict[str, Interval]] | None = None
    seed: int
    settings: dict[str, str | int | float | None]
    versions: dict[str, str]
    command: str


def outputs_of(name: str) -> list[str]:
    """Files of the evaluation ``name``, relative to the run folder."""
    return [f"eval/{name}/predictions.parquet", f"eval/{name}/metrics.json"]


def predictions_table(
    users: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer],
    items: npt.NDArray[np.integer],
    scores: npt.NDArray[np.floating[Any]],
    chains: Sequence[str | None],
    malformed: Sequence[bool | None],
) -> pl.DataFrame:
    """The table of ``predictions.parquet``.

    Args:
        users: ``[N]``.
        targets: ``[N]``.
        items: ``[N, k]``, best first.
        scores: ``[N, k]``; log-probability of the item, or the baseline's own score.
        chains: N texts up to and including ``<answer>``; None where no chain was written.
        malformed: N; True where ``<answer>`` had to be appended, None where no chain was written.
    """
    return pl.DataFrame(
        {
            "user": users,
            "target": targets,
            "items": items.tolist(),
            "scores": scores.tolist(),
            "chain": chains,
            "malformed": malformed,
        },
        schema=PREDICTIONS_SCHEMA,
    )


def write_result(out: Path, result: Result, predictions: pl.DataFrame) -> Summary:
    """Write the table and the summary of an evaluation under ``out``, a stage's folder."""
    table, summary = (out / path for path in outputs_of(result.name))
    table.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_parquet(table)
    write_json(summary, result.model_dump(mode="json"))
    recall, ndcg = (result.metrics[name].value for name in ("recall@10", "ndcg@10"))
    return Summary(f"{result.users:,} users, Recall@10 {recall:.4f}, NDCG@10 {ndcg:.4f}")


def read_results(run: Path) -> list[Result]:
    """Every ``eval/*/metrics.json`` of a run: by protocol, baselines first, then the others by name; may be empty.

    Raises:
        GreamError: One does not follow the schema.
    """
    results = [read_result(path) for path in (run / "eval").glob("*/metrics.json")]
    return sorted(
        results,
        key=lambda result: (
            result.history == "allowed",
            result.fitted == "train+valid",
            _order(result),
            result.name,
        ),
    )


def best_baseline(result: Result, results: Sequence[Result], mode: Mode | None = None) -> Result | None:
    """The baseline of the best NDCG@10 that was asked and fitted as ``result`` was.

    Args:
        result: Of a model.
        results: Of the same run.
        mode: Only this baseline.
    """
    alike = [
        other
        for other in results
        if other.mode in BASELINES
        and mode in (None, other.mode)
        and (other.split, other.history, other.fitted or "train")
        == (result.split, result.history, result.fitted or "train")
    ]
    return max(alike, key=lambda other: other.metrics["ndcg@10"].value, default=None)


def _order(result: Result) -> int:
    return BASELINES.index(result.mode) if result.mode in BASELINES else len(BASELINES)


def read_result(path: Path) -> Result:
    """One ``metrics.json``.

    Raises:
        GreamError: It does not follow the schema, lacks a metric that tables show, or one is not finite.
    """
    from .metrics import SHOWN  # imports this module

    try:
        result = Result.model_validate(read_json(path, remedy=AGAIN))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise GreamError(f"{path}: key '{name}': {first['msg']}; {AGAIN}") from None
    parts = {"metrics": result.metrics} | {f"alone.{part}": own for part, own in (result.alone or {}).items()}
    for part, metrics in parts.items():
        lacking = [name for name in SHOWN if name not in metrics]
        if lacking:
            raise GreamError(f"{path}: key '{part}': has no '{lacking[0]}'; {AGAIN}")
        for name, interval in metrics.items():
            if not all(map(math.isfinite, (interval.value, interval.low, interval.high))):
                raise GreamError(f"{path}: key '{part}.{name}': finite numbers are expected; {AGAIN}")
    return result


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of Python, gream (with its commit, where there is one) and ``packages``.

    Raises:
        GreamError: A package is not installed.
    """
    return {"python": platform.python_version()} | version_and_commit() | versions(*packages)
