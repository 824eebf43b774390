"""The quality report as one HTML page: a chart per figure over the levels, and the figures as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gream.page.markup import figure_of
from gream.page.overview import Figure, overview_page
from gream.page.svg import bar_chart

# Table, key, title, what it says.
_CHARTS = (
    ("per_level", "perplexity", "Perplexity", "Codes in even use that carry as much information; at best the size."),
    ("per_level", "gini", "Gini", "0: all codes of a level are used alike; 1: one has all items."),
    ("per_level", "reconstruction_error", "Reconstruction error", "Share of the embeddings that is left unexplained."),
    ("purity", "category_purity", "Category purity", "Share of items in the commonest category under their prefix."),
    (
        "cooccurrence",
        "lift",
        "Neighbours",
        "How many times likelier consecutive items share a prefix than any two.",
    ),
)


def quality_page(report: Mapping[str, Any]) -> str:
    """The page of what `quality_report` returned."""
    charts = [chart for table, *rest in _CHARTS if (chart := _chart(report[table], *rest)) is not None]
    overview = {key: report[key] for key in ("items", "levels", "sizes", "unique_rate", "collisions")}
    titles = {"per_level": "Levels", "purity": "Purity", "cooccurrence": "Neighbours"}
    tables = [(title, report[key]) for key, title in titles.items() if report[key]]
    return overview_page("Semantic ids", overview, charts, tables)


def _chart(rows: Sequence[Mapping[str, Any]], key: str, title: str, says: str) -> Figure | None:
    bars = [
        (f"level {level}", float(row[key]), figure_of(key, row[key]))
        for level, row in enumerate(rows, start=1)
        if row.get(key) is not None
    ]
    return (title, bar_chart(title, bars), says) if bars else None
