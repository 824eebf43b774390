"""The report as one HTML page: no script, no external resource; the template escapes every text of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gream.page import render
from gream.page.markup import title_of
from gream.page.svg import bar_chart, histogram, interval_bar, line_chart, number
from markupsafe import Markup

from ..metrics import SHOWN
from ..results import BASELINES, Interval, Result, best_baseline
from .data import Curve, ReportData

# Share of targets from which on ties are named; as the stage 'interactions' warns.
MANY_TIES = 0.05
_HEADS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "ndcg@5": "NDCG@5",
    "ndcg@10": "NDCG@10",
    "mrr": "MRR",
}
# Items of a history that stand open; earlier ones unfold.
_RECENT = 6


@dataclass
class _Part:
    """A section about one JSON file: panels of figures, charts (title, chart, what it says), tables."""

    panels: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    figures: list[tuple[str, Markup, str]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def render_page(data: ReportData) -> str:
    """The whole page."""
    statistics = data.statistics or {}
    ties = statistics.get("ties") or {}
    window = data.shown.settings.get("history") if data.shown else None
    return render(
        Path(__file__).with_suffix(".html"),
        data=data,
        known=[
            f"{number(statistics[key])} {key}"
            for key in ("users", "items", "interactions")
            if isinstance(statistics.get(key), int | float)
        ],
        ties=ties if ties.get("test_share", 0.0) > MANY_TIES else None,
        tiles=_tiles(data),
        heads={name: _HEADS[name] for name in SHOWN},
        accuracy=list(_accuracy(data)),
        curves=[(curve, _chart(curve)) for curve in data.curves if curve.points],
        ids=None if data.quality is None else _semantic_ids(data.quality),
        statistics=None if data.statistics is None else _statistics(data.statistics),
        window=window if isinstance(window, int) else None,
        recent=_RECENT,
    )


def _tiles(data: ReportData) -> list[tuple[str, str, str]]:
    tiles: list[tuple[str, str, str]] = []
    models = [result for result in data.results if result.mode not in BASELINES and result.split == "test"]
    if models:
        best = max(models, key=lambda result: result.metrics["ndcg@10"].value)
        nearest, strongest = (best_baseline(best, data.results, mode) for mode in ("transitions", None))
        if nearest is not None:
            tiles.append(_against(best, nearest))
        if strongest is not None and strongest != nearest:
            tiles.append(_against(best, strongest))
        for metric in ("recall@10", "ndcg@10"):
            tiles.append((f"{_HEADS[metric]}, {best.name}", _fixed(best.metrics[metric].value), _range(best, metric)))
    if data.rewards is not None:
        change = data.rewards.difference
        tiles.append(
            (
                "Reward, SFT to SRPO",
                f"{change.value:+.3f}",
                f"{_fixed(data.rewards.before.value)} to {_fixed(data.rewards.after.value)}; "
                f"95 % {change.low:+.3f} to {change.high:+.3f}",
            )
        )
    if models:
        lists = sum(result.users for result in models)
        invalid = sum(result.invalid_rate * result.users for result in models) / lists
        doubled = sum(result.duplicates for result in models)
        tiles.append(
            (
                "Recommended items that do not exist",
                f"{invalid:.1%}",
                f"{number(lists)} lists, {doubled} with doubles",
            )
        )
    return tiles


def _against(result: Result, rival: Result) -> tuple[str, str, str]:
    ours, theirs = result.metrics["ndcg@10"].value, rival.metrics["ndcg@10"].value
    figure = f"{ours / theirs - 1:+.0%}" if theirs else "n/a"
    stands = "ahead of" if ours > theirs else "behind" if ours < theirs else "level with"
    return f"NDCG@10, {result.name} {stands} {rival.name}", figure, f"{_fixed(ours)} to {_fixed(theirs)}"


def _range(result: Result, metric: str) -> str:
    interval = result.metrics[metric]
    return f"95 % {_fixed(interval.low)} to {_fixed(interval.high)}, {number(result.users)} users"


def _accuracy(data: ReportData) -> Iterator[tuple[Result, list[str], list[tuple[Interval, bool, Markup]]]]:
    """Each evaluation, what is said of it, and of each metric its interval, whether it is the best, and its bar."""
    for result in data.results:
        asked = [] if result.mode == result.name else [str(result.mode)]
        if result.split != "test":
            asked.append(f"{result.split} split")
        lines = [", ".join([*asked, f"{number(result.users)} users"]), result.checkpoint or ""]
        cells = []
        for name in SHOWN:
            own, all_ = result.metrics[name], [other.metrics[name] for other in data.results]
            bar = interval_bar(own.low, own.value, own.high, max(other.high for other in all_))
            cells.append((own, own.value == max(other.value for other in all_), bar))
        yield result, [line for line in lines if line], cells


def _fixed(value: float) -> str:
    return f"{value:.4f}"


def _chart(curve: Curve) -> Markup:
    points = curve.points or ()
    return line_chart(curve.title, points, zero=all(0 <= value <= 1 for _, value in points))


def _semantic_ids(quality: Mapping[str, Any]) -> _Part:
    part = _Part()
    tables = {key: value for key, value in quality.items() if _is_table(value)}
    scalars = {key: value for key, value in quality.items() if key not in tables and not isinstance(value, Mapping)}
    if scalars:
        part.panels["Overview"] = scalars
    part.panels |= {title_of(key): value for key, value in quality.items() if isinstance(value, Mapping)}
    purity = [row for row in tables.pop("purity", ()) if "category_purity" in row]
    if purity:
        rows = [
            (f"prefix of {row.get('prefix_length')}", float(row["category_purity"]), f"{row['category_purity']:.1%}")
            for row in purity
        ]
        chart = bar_chart("Category purity by length of the prefix", rows, 1.0)
        says = "Share of items whose category is the commonest one under their prefix, of all items."
        part.figures.append(("Category purity", chart, says))
    part.tables = {title_of(key): value for key, value in tables.items()}
    return part


def _statistics(statistics: Mapping[str, Any]) -> _Part:
    part = _Part()
    scalars = {key: value for key, value in statistics.items() if not isinstance(value, Mapping)}
    if scalars:
        part.panels["Overview"] = scalars
    for key, value in statistics.items():
        if not isinstance(value, Mapping):
            continue
        title = title_of(key)
        # What was counted step by step reads better as a table, a step per row; counts by whole number as a chart.
        if value and all(name.isdigit() and isinstance(count, int) for name, count in value.items()):
            chart = histogram(title, {int(name): count for name, count in value.items()})
            part.figures.append((title, chart, ""))
        elif all(isinstance(row, Mapping) for row in value.values()):
            part.tables[title] = [{"step": title_of(name), **row} for name, row in value.items()]
        else:
            part.panels[title] = value
    return part


def _is_table(value: object) -> bool:
    """Whether a JSON value is a list of records."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
