"""Rows of no use: refused with their number, or left out and counted; what readers met is told to the stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl
from gream.errors import GreamError

OnBadRow = Literal["fail", "skip"]


class Check(NamedTuple):
    """What every row of a file must have.

    Attributes:
        reason: What a row without it is, such as "without a user".
        good: Where it is there, boolean, a value for each row.
    """

    reason: str
    good: pl.Series


def left_out(skipped: Mapping[str, int]) -> list[str]:
    """What a stage says of rows that it left out, from their number by reason."""
    return [f"{count:,} {reason} left out" for reason, count in skipped.items()]


@dataclass
class RowLog:
    """What becomes of rows of no use, and what was met.

    Attributes:
        on_bad_row: ``fail`` refuses the file, ``skip`` leaves the rows out.
        skipped: Rows left out, by reason.
        merged: Rows of metadata that became a part of another row of the same item.
    """

    on_bad_row: OnBadRow = "fail"
    skipped: dict[str, int] = field(default_factory=dict)
    merged: int = 0

    def usable(
        self, frame: pl.DataFrame, checks: Mapping[str, Check], problem: Callable[[str, int], str]
    ) -> pl.DataFrame:
        """The rows that pass all checks.

        Args:
            frame: All rows.
            checks: By name.
            problem: From the name of a check and the index of the first row that fails one to what is wrong with it,
                file and line first.

        Raises:
            GreamError: There is a bad row and they are refused, or no row is good.
        """
        if all(check.good.all() for check in checks.values()):
            return frame
        good = pl.Series([True] * len(frame))
        counts: dict[str, int] = {}
        first: tuple[int, str] | None = None
        # A row is counted once, under the first reason.
        for name, check in checks.items():
            bad = good & ~check.good
            if number := int(bad.sum()):
                counts[check.reason] = number
                index = int(bad.arg_true()[0])
                first = min(first or (index, name), (index, name), key=lambda pair: pair[0])
            good = good & check.good
        assert first is not None  # noqa: S101 - a check failed
        bad_rows = sum(counts.values())
        if self.on_bad_row == "fail" or bad_rows == len(frame):
            raise GreamError(f"{problem(first[1], first[0])}; {_remedy(counts, bad_rows, len(frame))}")
        for reason, number in counts.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + number
        return frame.filter(good)


def _remedy(counts: Mapping[str, int], bad_rows: int, rows: int) -> str:
    if bad_rows == 1:
        return "correct the line or delete it, or leave it out: interactions.on_bad_row=skip"
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
    if bad_rows == rows:
        return f"all {rows:,} rows are of no use ({reasons})"
    return (
        f"{bad_rows:,} of {rows:,} rows are of no use ({reasons}); correct them or delete them, or leave them out: "
        "interactions.on_bad_row=skip"
    )
