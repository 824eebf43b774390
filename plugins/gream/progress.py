"""How long work goes on, on stderr: a terminal gets a moving bar, a log file a line now and then."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(total: int, unit: str, *, done: int = 0, label: str | None = None, show: bool = True) -> tqdm:
    """A bar that counts to ``total``; work of a moment gets none.

    Args:
        total: Of all, what is done already included.
        unit: What is counted.
        done: How many earlier starts did.
        label: Stands before the bar.
        show: False for processes that keep quiet.
    """
    interval = 0.5 if sys.stderr.isatty() else 15.0
    return tqdm(
        total=total,
        initial=done,
        unit=f" {unit}",
        desc=label,
        dynamic_ncols=True,
        mininterval=interval,
        miniters=1,
        delay=interval,
        disable=not show,
    )
