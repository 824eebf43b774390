"""The statistics of a data set as a page of Markdown, for people; ``statistics.json`` holds the same for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_BARS = 24
_BAR = 40


def render_statistics(statistics: Mapping[str, Any]) -> str:
    """The page: what the data set is, what the filters removed, and how long the sequences are."""
    source = statistics["source"]
    period = f", {source['first']} to {source['last']}" if "first" in source else ""
    facts = {
        "source": f"{source['dump']}: {_code(source['reviews'])}, {_code(source['metadata'])}{period}",
        "users": _number(statistics["users"]),
        "items": _number(statistics["items"]),
        "interactions": _number(statistics["interactions"]),
        "density": f"{statistics['density']:.4%}",
        "mean sequence length": f"{statistics['mean_sequence_length']:.2f}",
        "training, validation, test": ", ".join(_number(count) for count in statistics["splits"].values()),
        **{
            f"training targets {name.replace('_', ' ')}": _number(count)
            for name, count in statistics["training_targets"].items()
        },
        **{
            name.replace("_", " "): _number(value)
            for name, value in statistics.items()
            if isinstance(value, int) and name not in ("users", "items", "interactions")
        },
        **_tie_facts(statistics.get("ties")),
        **{f"left out: {reason}": _number(count) for reason, count in statistics.get("rows_skipped", {}).items()},
    }
    lines = ["# Interactions", "", "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in facts.items())]
    if "filters" in statistics:
        lines += ["", "## What each filter removed", "", "| step | users | items | interactions |", "|---|--:|--:|--:|"]
        for step, counts in statistics["filters"].items():
            name = step.replace("_", " ")
            if "core" in counts:
                name += f" ({counts['core']}-core, {counts['rounds']} rounds)"
            figures = " | ".join(_number(counts[key]) for key in ("users", "items", "interactions"))
            lines.append(f"| {name} | {figures} |")
        left = " | ".join(_number(statistics[key]) for key in ("users", "items", "interactions"))
        lines.append(f"| **left** | {left} |")
    lengths = {int(length): count for length, count in statistics["sequence_lengths"].items()}
    return "\n".join([*lines, "", "## Sequence lengths", "", "```", *_histogram(lengths), "```", ""])


def _tie_facts(ties: Mapping[str, Any] | None) -> dict[str, str]:
    """What of the targets the order within one moment decides."""
    if ties is None:
        return {}
    return {
        **{
            f"{name} targets that share their time with a neighbour": (
                f"{_number(ties[f'{name}_targets'])} ({ties[f'{name}_share']:.1%})"
            )
            for name in ("validation", "test")
        },
        "what orders them": ties["rule"],
    }


def _histogram(lengths: Mapping[int, int]) -> list[str]:
    """A bar per length; the long tail, which would be many short bars, is one."""
    first = min(lengths)
    last = min(max(lengths), first + _MOST_BARS - 1)
    bars = {str(length): lengths.get(length, 0) for length in range(first, last + 1)}
    tail = sum(count for length, count in lengths.items() if length > last)
    if tail:
        bars[f"{last + 1} to {max(lengths)}"] = tail
    largest, width = max(bars.values()), max(map(len, bars))
    counts = max(len(_number(count)) for count in bars.values())
    return [
        f"{name:>{width}}  {_number(count):>{counts}}  {'#' * round(count / largest * _BAR)}".rstrip()
        for name, count in bars.items()
    ]


def _number(value: int) -> str:
    return f"{value:,}"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")
