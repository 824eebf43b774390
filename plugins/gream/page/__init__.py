"""Self-contained HTML pages: charts as inline SVG, tables, one style sheet; no script, no external resource."""

from __future__ import annotations

from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")


def html_page(title: str, body: str) -> str:
    """A whole document around ``body``, which is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )
