"""Everything the report shows, read from a run folder; a part that is not there yet is None, with its path named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gream.dialogue import ANSWER_CLOSE, ReasonedAnswer, parse_reasoned_answer
from gream.errors import GreamError
from gream.files import Row, read_json, read_jsonl
from gream.page.svg import Point
from gream.protocol import held_out, read_interactions
from gream.semantic_ids.catalog import Catalog
from gream.tables import read_table

from ..metrics import ranks_of
from ..results import AGAIN, Result, outputs_of, read_results
from ..rewards import REWARDS, RewardComparison, read_rewards

USERS_SHOWN = 10
_SEED = 0

STATISTICS, QUALITY = "statistics.json", "quality.json"
_ITEMS, _INTERACTIONS, _INDEX, _USERS = "items.parquet", "interactions.parquet", "index.json", "users.parquet"
_SFT_LOGS = {
    "Alignment loss": "checkpoints/alignment/trainer_log.jsonl",
    "Reasoning loss": "checkpoints/reasoning/trainer_log.jsonl",
}
_SRPO_LOG = "checkpoints/srpo/metrics.jsonl"
# What of SRPO is shown, and how verl or the plugin names it: the first key that contains one of these.
_SRPO_CURVES = {
    "Mean reward": ("critic/rewards/mean", "critic/score/mean"),
    "Exact hits": ("srpo/exact",),
    "Pass@K": ("srpo/pass_at",),
    "Groups without variance": ("srpo/zero_var", "srpo/zero-var"),
}


@dataclass(frozen=True)
class Curve:
    """A training curve.

    Attributes:
        title: What it shows.
        source: File it comes from, relative to the run.
        key: Name of the value in the file.
        points: (step, value) by step; None where the file is absent or never holds the value.
        not_finite: Values left out because they are not finite.
    """

    title: str
    source: str
    key: str
    points: tuple[Point, ...] | None
    not_finite: int


@dataclass(frozen=True)
class ItemView:
    """An item as the page shows it."""

    item: int
    title: str
    category: str
    semantic_id: str


@dataclass(frozen=True)
class UserView:
    """One user's case.

    Attributes:
        name: The user's number, or id in the data where ids are asked for.
        history: What came before the target, oldest first.
        target: The item that followed.
        ranked: The list, best first, with scores.
        rank: Rank of the target, from 1; 0 for a miss.
        chain: What the model wrote; None in direct mode.
        stages: The chain taken apart; None where it does not follow the grammar.
        rewritten: Items of the chain's denoised history, in its order.
    """

    name: str
    history: tuple[ItemView, ...]
    target: ItemView
    ranked: tuple[tuple[ItemView, float], ...]
    rank: int
    chain: str | None
    stages: ReasonedAnswer | None
    rewritten: tuple[ItemView, ...]


@dataclass(frozen=True)
class ReportData:
    """A run as the report shows it.

    Attributes:
        name: Name of the run folder.
        results: All evaluations, baselines first.
        rewards: Reward before and after SRPO.
        curves: Training curves, in the order of training.
        quality: ``quality.json``.
        statistics: ``statistics.json``.
        shown: The evaluation whose users are shown.
        users: Its chosen users, hits first.
    """

    name: str
    results: tuple[Result, ...]
    rewards: RewardComparison | None
    curves: tuple[Curve, ...]
    quality: dict[str, Any] | None
    statistics: dict[str, Any] | None
    shown: Result | None
    users: tuple[UserView, ...]


def report_inputs(run: Path, user_ids: bool) -> list[Path]:
    """Files of ``run`` that the report shows, as far as they are there."""
    fixed = [STATISTICS, QUALITY, _ITEMS, _INTERACTIONS, _INDEX, REWARDS, _SRPO_LOG, *_SFT_LOGS.values()]
    files = [run / path for path in [*fixed, *([_USERS] if user_ids else [])]]
    return [path for path in files if path.exists()] + sorted((run / "eval").glob("*/*.*"))


def read_report_data(run: Path, user_ids: bool) -> ReportData:
    """Read all parts.

    Args:
        run: Run folder.
        user_ids: Name users by their ids in the data.

    Raises:
        GreamError: A file that is there is broken; absent ones are no error.
    """
    results = read_results(run)
    _insist_on_predictions(run)
    shown = _most_telling(results)
    return ReportData(
        name=run.resolve().name,
        results=tuple(results),
        rewards=read_rewards(run),
        curves=tuple(_curves(run)),
        quality=_read_json(run / QUALITY),
        statistics=_read_json(run / STATISTICS),
        shown=shown,
        users=() if shown is None else tuple(_choose_users(run, shown, user_ids)),
    )


def _insist_on_predictions(run: Path) -> None:
    """Every evaluation has its lists: figures that nothing stands behind are not shown.

    Raises:
        GreamError: Those of one are not there or cannot be read.
    """
    for summary in sorted((run / "eval").glob("*/metrics.json")):
        try:
            read_table(summary.with_name("predictions.parquet"), "user", "target", "items")
        except GreamError as error:
            raise GreamError(f"{error}; {AGAIN}") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path, remedy="make it again")
    if not isinstance(value, dict):
        raise GreamError(f"{path}: a JSON object is expected; make it again")
    return value


def _curves(run: Path) -> Iterator[Curve]:
    for title, source in _SFT_LOGS.items():
        rows = _logged(run / source)
        yield _curve(title, source, "loss", [(row.get("current_steps"), row.get("loss")) for row in rows])
    steps = [(row.get("step"), row.get("data") or {}) for row in _logged(run / _SRPO_LOG)]
    keys = sorted({key for _, data in steps for key in data})
    for title, names in _SRPO_CURVES.items():
        key = next((key for name in names for key in keys if name in key), names[0])
        yield _curve(title, _SRPO_LOG, key, [(step, data.get(key)) for step, data in steps])


def _logged(path: Path) -> list[Row]:
    return read_jsonl(path, remedy="remove the line or train again") if path.exists() else []


def _curve(title: str, source: str, key: str, pairs: Sequence[tuple[Any, Any]]) -> Curve:
    logged = [(float(step), float(value)) for step, value in pairs if step is not None and value is not None]
    finite = sorted((step, value) for step, value in logged if math.isfinite(value))
    return Curve(title, source, key, tuple(finite) or None, len(logged) - len(finite))


def _most_telling(results: Sequence[Result]) -> Result | None:
    """The best reasoned evaluation by NDCG@10; the best direct one where none was reasoned."""
    for mode in ("reasoning", "direct"):
        candidates = [result for result in results if result.mode == mode]
        if candidates:
            return max(candidates, key=lambda result: result.metrics["ndcg@10"].value)
    return None


def _choose_users(run: Path, shown: Result, user_ids: bool) -> Iterator[UserView]:
    """Half of the users hits and half misses, as far as there are; drawn with a fixed seed, not picked."""
    predictions = read_table(run / outputs_of(shown.name)[0])
    items = np.array(predictions["items"].to_list(), dtype=np.int64)
    ranks = ranks_of(items, predictions["target"].to_numpy())
    drawn = np.random.default_rng(_SEED).permutation(len(ranks))
    hits, misses = drawn[ranks[drawn] > 0], drawn[ranks[drawn] == 0]
    half = USERS_SHOWN // 2
    hit_count = min(len(hits), max(half, USERS_SHOWN - len(misses)))
    miss_count = min(len(misses), USERS_SHOWN - hit_count)
    rows = [*sorted(hits[:hit_count].tolist()), *sorted(misses[:miss_count].tolist())]

    cases = held_out(read_interactions(run / _INTERACTIONS), shown.split)
    place = {int(user): index for index, user in enumerate(cases.users)}
    catalog = Catalog.load(run / _INDEX)
    view = _item_views(run / _ITEMS, catalog)
    names = dict(read_table(run / _USERS, "user", "user_id").iter_rows()) if user_ids else {}
    for row in rows:
        one = predictions.row(row, named=True)
        chain = one["chain"]
        stages = None
        if chain is not None:
            stages = parse_reasoned_answer(chain + catalog.text(one["items"][0]) + ANSWER_CLOSE)
        rewritten = [catalog.item_in(text) for text in stages.history] if stages else []
        yield UserView(
            name=names.get(one["user"], f"User {one['user']}"),
            history=tuple(view(item) for item in cases.histories[place[one["user"]]]),
            target=view(one["target"]),
            ranked=tuple((view(item), score) for item, score in zip(one["items"], one["scores"], strict=True)),
            rank=int(ranks[row]),
            chain=chain,
            stages=stages,
            rewritten=tuple(view(item) for item in rewritten if item is not None),
        )


def _item_views(path: Path, catalog: Catalog) -> Callable[[int], ItemView]:
    titles: dict[int, tuple[str, str]] = {}
    if path.exists():
        table = read_table(path, "item", "title", "categories")
        titles = {item: (title, (kinds or [""])[-1]) for item, title, kinds in table.iter_rows()}

    def view(item: int) -> ItemView:
        title, category = titles.get(item, (f"item {item}", ""))
        return ItemView(item, title, category, catalog.text(item))

    return view
