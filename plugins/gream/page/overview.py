"""The page of one subject: a panel of figures, charts, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gream.page import render

# Title, chart, and what it says.
Figure = tuple[str, Markup, str]
Table = tuple[str, Sequence[Mapping[str, Any]]]


def overview_page(title: str, overview: Mapping[str, Any], charts: Sequence[Figure], tables: Sequence[Table]) -> str:
    """The page; tables are (title, rows)."""
    template = Path(__file__).with_suffix(".html")
    return render(template, title=title, overview=overview, charts=charts, tables=tables)
