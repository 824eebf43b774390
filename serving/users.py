"""The run's own users: what each has, as it was bought or read, and whether people take the same item twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gream.errors import GreamError
from gream.files import read_json
from gream.tables import read_numbers, read_table
from rapidfuzz import process

# Share of interactions that repeat an item from which on lists may name what a user already has.
_SELDOM = 0.01


class UnknownUserError(GreamError):
    """Nobody in the run has that id."""


class Users:
    """Every user's history, by the user's id in the data."""

    def __init__(self, run: Path) -> None:
        """Read ``users.parquet`` and ``interactions.parquet``.

        Raises:
            GreamError: A file cannot be read.
        """
        self._number = read_numbers(run / "users.parquet", "user", "user_id")
        rows = read_table(run / "interactions.parquet", "user", "item", "position").sort("user", "position")
        self._items = rows["item"].to_numpy()
        self._starts = np.searchsorted(rows["user"].to_numpy(), np.arange(len(self._number) + 1))

    def history(self, user: str) -> tuple[int, ...]:
        """Item numbers of all that ``user`` has, validation and test item included, oldest first.

        Raises:
            UnknownUserError: There is no such user; names the nearest id.
        """
        number = self._number.get(user.strip())
        if number is None:
            near = process.extractOne(user, list(self._number))
            hint = f"; the nearest id is '{near[0][:80]}'" if near else ""
            raise UnknownUserError(
                f"no user of the run has the id '{user[:80]}'{hint}; who has too little is not in it"
            )
        return tuple(self._items[self._starts[number] : self._starts[number + 1]].tolist())


def nothing_twice(run: Path) -> bool:
    """Whether the raw data say that hardly anybody takes an item twice; False where they do not say.

    Raises:
        GreamError: ``statistics.json`` is no JSON.
    """
    path = run / "statistics.json"
    if not path.exists():
        return False
    found = read_json(path, remedy="make it again with the stage 'interactions'")
    filters = found.get("filters", {})
    repeated = filters.get("removed_repetitions", {}).get("interactions", found.get("repetitions_kept"))
    every = filters.get("raw", found).get("interactions")
    return repeated is not None and every is not None and repeated <= _SELDOM * every
