"""The terminal that tables are printed on."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 100


def make_console() -> Console:
    """The terminal as wide as it is; a pipe or a file as if it had 100 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)
