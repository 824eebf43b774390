"""Pieces of HTML that sections of the report share; every text is escaped on its way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gream.page.svg import number

# A fraction under one of these names reads as a percentage.
_SHARE_KEYS = ("rate", "share", "purity", "_prefix")


def missing(what: str, remedy: str) -> str:
    """A line that names a part which is not there, and what makes it."""
    return f'<p class="missing">{escape(what)}; {escape(remedy)}.</p>'


def panel(title: str, values: Mapping[str, Any]) -> str:
    """A titled list of names and figures; nested mappings are flattened."""
    return f'<div class="panel"><h3>{escape(title)}</h3><dl>{_entries(values, "")}</dl></div>'


def _entries(values: Mapping[str, Any], prefix: str) -> str:
    parts = []
    for key, value in values.items():
        name = f"{prefix}{title_of(key).lower() if prefix else title_of(key)}"
        if isinstance(value, Mapping):
            parts.append(_entries(value, f"{name}: "))
        else:
            parts.append(f"<dt>{escape(name)}</dt><dd>{escape(figure_of(key, value))}</dd>")
    return "".join(parts)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of records; a column for each key that some record has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th scope=col>{escape(title_of(key))}</th>" for key in keys)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(figure_of(key, row.get(key)))}</td>" for key in keys) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def title_of(key: str) -> str:
    """The name of a JSON key for a reader."""
    return key.replace("_", " ").capitalize()


def figure_of(key: str, value: Any) -> str:
    """The text of a JSON value; fractions become percentages where the key says so."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        if isinstance(value, float) and any(part in key for part in _SHARE_KEYS):
            return f"{value:.1%}"
        return number(value)
    if isinstance(value, list):
        return ", ".join(figure_of(key, part) for part in value)
    return str(value)


def is_scalar(value: Any) -> bool:
    """Whether a JSON value is a single one."""
    return value is None or isinstance(value, str | int | float)


def is_flat_list(value: Any) -> bool:
    """Whether a JSON value is a list of single ones."""
    return isinstance(value, list) and all(is_scalar(part) for part in value)


def is_table(value: Any) -> bool:
    """Whether a JSON value is a list of records."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
