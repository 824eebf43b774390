"""How pages name and write the values of JSON files: the filters of their templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gream.page.svg import number

# A fraction under one of these names reads as a percentage.
_SHARE_KEYS = ("rate", "share", "purity", "_prefix")


def entries_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and figure of each value; nested mappings are flattened."""
    for key, value in values.items():
        name = f"{prefix}{title_of(key).lower() if prefix else title_of(key)}"
        if isinstance(value, Mapping):
            yield from entries_of(value, f"{name}: ")
        else:
            yield name, figure_of(key, value)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each key that some record has."""
    return list(dict.fromkeys(key for row in rows for key in row))


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


FILTERS = {"entries": entries_of, "columns": columns_of, "name": title_of, "figure": figure_of, "number": number}
