"""The quality report as one HTML page: a chart per figure over the levels, and the figures as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gream.page.markup import figure_of
from gream.page.overview import Figure, overview_page
from gream.page.svg import bar_chart

# Table, key, what a full bar stands for (a number, or a key of the table), title, what it says.
_CHARTS: tuple[tuple[str, str, float | str | None, str, str], ...] = (
    (
        "per_level",
        "perplexity",
        "size",
        "Perplexity",
        "Codes in even use that carry as much information, of all codes.",
    ),
    ("per_level", "gini", 1.0, "Gini", "0: all codes of a level are used alike; 1: one has all items."),
    ("per_level", "reconstruction_error", 1.0, "Reconstruction error", "Share of the embeddings left unexplained."),
    ("purity", "category_purity", 1.0, "Category purity", "Share of items in the commonest category of their prefix."),
    (
        "cooccurrence",
        "lift",
        None,
        "Neighbours",
        "How many times likelier consecutive items share a prefix than any two; the largest fills its line.",
    ),
)


def quality_page(report: Mapping[str, Any]) -> str:
    """The page of what `quality_report` returned."""
    drawn = (_chart(report[table], key, full, title, says) for table, key, full, title, says in _CHARTS)
    charts = [chart for chart in drawn if chart is not None]
    overview = {key: report[key] for key in ("items", "levels", "sizes", "unique_rate", "collisions")}
    titles = {"per_level": "Levels", "purity": "Purity", "cooccurrence": "Neighbours"}
    tables = [(title, report[key]) for key, title in titles.items() if report[key]]
    return overview_page("Semantic ids", overview, charts, tables)


def _chart(
    rows: Sequence[Mapping[str, Any]], key: str, full: float | str | None, title: str, says: str
) -> Figure | None:
    bars = [
        (f"level {level}", float(row[key]), figure_of(key, row[key]))
        for level, row in enumerate(rows, start=1)
        if row.get(key) is not None
    ]
    if isinstance(full, str):
        full = max((float(row[full]) for row in rows), default=None)
    return (title, bar_chart(title, bars, full), says) if bars else None
