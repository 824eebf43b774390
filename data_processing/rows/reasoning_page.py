"""What the reasoning stage teaches, as one HTML page: filters, lengths, and the curriculum over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gream.dialogue import STEPS
from gream.page.overview import Figure, overview_page
from gream.page.svg import Point, histogram, line_chart

from ..teacher.filters import Rejection
from .curriculum import Ints, reasoning_share

_WINDOWS = 60


def reasoning_page(statistics: Mapping[str, Any], order: Ints, steps: Ints) -> str:
    """The page.

    Args:
        statistics: As in ``statistics.json``.
        order: From `data_processing.rows.curriculum.training_order`.
        steps: From `data_processing.rows.curriculum.steps_shown`.
    """
    chains, mixed = statistics["chains"], statistics["alignment_rows_mixed_in"]
    overview = {
        "rows": len(order),
        "alignment rows mixed in": mixed,
        "targets": statistics["reasoning_targets"],
        "targets without a chain": statistics["reasoning_unsupported"],
        "chains written": chains["written"],
        "chains rejected": chains["rejected"],
        **{name: chains[name] for name in chains if name.endswith("_share") or name == "length"},
    }
    filters = [
        {"filter": reason.value, "chains": chains["rejected_by"][reason.name], "share": _share_of(chains, reason)}
        for reason in Rejection
    ]
    charts = [*_share_chart(order, mixed)]
    if len(steps):
        charts += _steps_chart(order, mixed, steps)
        kept = {int(count): number for count, number in chains["items_kept"].items()}
        title = "Items kept in the rewritten history"
        charts.append((title, histogram("Items kept", kept), "Chains by items kept."))
    return overview_page("Reasoning rows", overview, charts, [("What the filters rejected", filters)])


def _share_of(chains: Mapping[str, Any], reason: Rejection) -> float:
    """Share of the written chains that a filter rejects."""
    return float(chains["rejected_by"][reason.name] / max(1, chains["written"]))


def _share_chart(order: Ints, mixed: int) -> Iterator[Figure]:
    points = reasoning_share(order, mixed, _WINDOWS)
    if len(points) >= 2:
        chart = line_chart("Share of reasoning rows", points, zero=True)
        yield "Share of reasoning rows", chart, "In each sixtieth of the rows, in training order."


def _steps_chart(order: Ints, mixed: int, steps: Ints) -> Iterator[Figure]:
    if len(steps) >= 2 and steps.min() < STEPS:
        places = np.flatnonzero(order >= mixed)
        shown: list[Point] = list(zip(places.tolist(), steps[order[places] - mixed].tolist(), strict=True))
        yield "Steps of a chain", line_chart("Steps", shown, zero=True), "Stages shown, row by row."
