"""Two evaluations of the same users set against each other: paired by user, as a whole and by group of users.

The interval is a percentile bootstrap of the mean difference over users. The p-value is that of the paired
randomisation test (Smucker, Allan and Carterette 2007): were both evaluations the same, each user's two values could as
well be exchanged. It is two-sided, drawn 10,000 times, and not corrected for the number of groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from gream.config import Config
from gream.errors import GreamError
from gream.protocol import held_out, read_interactions, training_matrix
from gream.semantic_ids.published import read_token_lists
from gream.tables import read_table

from .metrics import METRICS, RESAMPLES, ranks_of, values_by_rank
from .results import Interval, Result, best_baseline, outputs_of, read_result, read_results

COMPARED = ("recall@10", "ndcg@10", "mrr")

_EXCHANGES = 10_000


class Difference(Config):
    """What one metric is in both, over a group of users.

    Attributes:
        first: Mean in the first evaluation.
        second: Mean in the second.
        difference: Second minus first, with its 95 % interval.
        p_value: Of the paired randomisation test.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


class Group(Config):
    """A group of users.

    Attributes:
        name: What they have in common.
        users: How many they are.
        metrics: One `Difference` for each of `COMPARED`.
    """

    name: str
    users: int
    metrics: dict[str, Difference]


class Comparison(Config):
    """What ``python -m eval compare --json`` writes.

    Attributes:
        first: Folder of the first evaluation.
        second: Folder of the second.
        split: Whose item was to be predicted.
        users: Users whom both asked.
        only_first: Users whom only the first asked; they take no part.
        only_second: Users whom only the second asked.
        groups: All users first.
        seed: Of the resamples.
    """

    first: str
    second: str
    split: str
    users: int
    only_first: int
    only_second: int
    groups: list[Group]
    seed: int


@dataclass(frozen=True)
class _Evaluation:
    result: Result
    predictions: pl.DataFrame


def compare(first: Path, second: Path, *, seed: int) -> Comparison:
    """Compare two evaluations.

    Users are grouped by the length of their history, in thirds, and by how often training users had the item to be
    found: never (cold), else in thirds. Both come from the run folder of ``first``.

    Args:
        first: Folder of an evaluation, ``RUN/eval/NAME``.
        second: Another one, of the same run or of another one on the same data.
        seed: Seed of the resamples.

    Raises:
        GreamError: A folder holds no evaluation, the splits differ, a user has another target, or no user is in both.
    """
    one, other = _read(first), _read(second)
    if one.result.split != other.result.split:
        raise GreamError(f"{second}: asks for the {other.result.split} item, {first} for the {one.result.split} item")
    both = one.predictions.join(other.predictions, on="user", suffix="_second", maintain_order="left")
    if both.is_empty():
        raise GreamError(f"{first} and {second} have no user in common")
    differing = both.filter(pl.col("target") != pl.col("target_second"))
    if len(differing):
        raise GreamError(
            f"{second}: user {differing['user'][0]} is to find another item than in {first}; the data differ"
        )
    ranks, lengths = [], []
    for column in ("items", "items_second"):
        items = np.array(both[column].to_list(), dtype=np.int64)
        ranks.append(ranks_of(items, both["target"].to_numpy()))
        lengths.append(items.shape[1])
    groups = _groups(first, one.result, both["user"].to_numpy())
    return Comparison(
        first=str(first),
        second=str(second),
        split=one.result.split,
        users=len(both),
        only_first=len(one.predictions) - len(both),
        only_second=len(other.predictions) - len(both),
        groups=[
            Group(name=name, users=int(chosen.sum()), metrics=_differences(ranks, chosen, max(lengths), seed))
            for name, chosen in groups
        ],
        seed=seed,
    )


def rival_of(folder: Path) -> Path:
    """Folder of the best baseline of the same run, by NDCG@10, that was asked as an evaluation was.

    Args:
        folder: Of the evaluation, ``RUN/eval/NAME``.

    Raises:
        GreamError: The folder holds no evaluation, or the run no such baseline.
    """
    result = _read(folder).result
    rival = best_baseline(result, read_results(folder.resolve().parent.parent))
    if rival is None:
        raise GreamError(
            f"{folder}: the run has no baseline on the {result.split} split with the history {result.history}; run "
            "'gream eval baselines' so, or name a second folder"
        )
    return folder.parent / rival.name


def _read(folder: Path) -> _Evaluation:
    table, summary = (folder / Path(path).name for path in outputs_of(folder.name))
    for path in (table, summary):
        if not path.exists():
            raise GreamError(f"{path}: not there; name the folder of an evaluation, RUN/eval/NAME")
    return _Evaluation(read_result(summary), read_table(table, "user", "target", "items"))


def _groups(folder: Path, result: Result, users: npt.NDArray[np.integer]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and members of each group that has any."""
    run = folder.resolve().parent.parent
    interactions = read_interactions(run / "interactions.parquet")
    cases = held_out(interactions, result.split)
    if not np.isin(users, cases.users).all():
        raise GreamError(f"{folder}: asks users who have no {result.split} item in {run / 'interactions.parquet'}")
    rows = np.searchsorted(cases.users, users)
    train = training_matrix(interactions, len(read_token_lists(run / "index.json")))
    had = np.bincount(train[1], minlength=int(cases.targets.max()) + 1)[cases.targets[rows]]
    length = np.array([len(cases.histories[row]) for row in rows])
    return [
        ("all users", np.ones(len(users), dtype=bool)),
        *_thirds("history of {}", length, np.ones(len(users), dtype=bool)),
        *([("target never seen", had == 0)] if (had == 0).any() else []),
        *_thirds("target seen {} times", had, had > 0),
    ]


def _thirds(
    name: str, values: npt.NDArray[np.integer], among: npt.NDArray[np.bool_]
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Groups of roughly equal size by ``values``, equal values together; fewer than three where there are many ties."""
    if not among.any():
        return []
    cuts = np.unique(np.quantile(values[among], (1 / 3, 2 / 3), method="inverted_cdf"))
    place = np.searchsorted(cuts, values, side="left")  # values up to and including a cut lie before it
    groups = []
    for at in np.unique(place[among]):
        chosen = among & (place == at)
        low, high = values[chosen].min(), values[chosen].max()
        groups.append((name.format(low if low == high else f"{low}-{high}"), chosen))
    return groups


def _differences(
    ranks: list[npt.NDArray[np.int64]], chosen: npt.NDArray[np.bool_], k: int, seed: int
) -> dict[str, Difference]:
    # A user counts by both ranks alone: drawing users is drawing how many fall on each of the few pairs of ranks.
    pairs, counts = np.unique(np.stack([rank[chosen] for rank in ranks]), axis=1, return_counts=True)
    users = int(counts.sum())
    values = values_by_rank(k)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(users, counts / users, size=RESAMPLES) / users  # [resamples, pairs]
    result = {}
    for name in COMPARED:
        before, after = values[pairs, METRICS.index(name)]
        change = after - before
        low, high = np.percentile(drawn @ change, (2.5, 97.5))
        result[name] = Difference(
            first=float(counts @ before) / users,
            second=float(counts @ after) / users,
            difference=Interval(value=float(counts @ change) / users, low=float(low), high=float(high)),
            p_value=_randomisation(change, counts, random),
        )
    return result


def _randomisation(
    change: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], random: np.random.Generator
) -> float:
    """Two-sided p-value of the sum of ``counts`` times ``change`` when each user's sign is a coin's."""
    observed = abs(float(counts @ change))
    heads = random.binomial(counts, 0.5, size=(_EXCHANGES, len(counts)))  # [exchanges, pairs]
    sums = np.abs((2 * heads - counts) @ change)
    # The drawn sums and the observed one are added up in other orders.
    reached = int((sums >= observed - 1e-9 * max(observed, 1)).sum())
    return (reached + 1) / (_EXCHANGES + 1)
