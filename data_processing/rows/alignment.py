"""Alignment records: the tasks that tie semantic ids to language and to histories (paper, section 3.2)."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args, overload

import numpy as np
import numpy.typing as npt
from gream.tasks import Material, Record, wordings_for
from gream.templates import Task

from ..config import SftConfig
from ..tables import Sequences, rows_of

Ints = npt.NDArray[np.int64]

_TASKS: tuple[str, ...] = (*get_args(Task), "sequence")
# What a task shows of a user's past, beside the item it is about.
_SHOWS_HISTORY: tuple[Task, ...] = ("next_item", "fused_next", "search", "preference")
_SHOWS_USER: tuple[Task, ...] = ("search", "preference")


class Records(Sequence[Record]):
    """Records in arrays, 30 bytes each; a record is made when it is asked for."""

    def __init__(self, sequences: Sequences) -> None:
        """Start empty.

        Args:
            sequences: Whose items the histories are parts of.
        """
        self._items = array("i", sequences.flat.tobytes())
        # Task, wording, item, user, and where the history begins and ends in `_items`.
        self._columns = (array("b"), array("b"), array("i"), array("i"), array("q"), array("q"))
        self._order = array("i")

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> list[Record]: ...
    def __getitem__(self, row: int | slice) -> Record | list[Record]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        task, template, item, user, begin, end = (column[self._order[row]] for column in self._columns)
        history = self._items[begin:end].tolist()
        return {"task": _TASKS[task], "template": template, "item": item, "history": history, "user": user}

    def append(self, task: int, template: int, item: int, user: int, begin: int, end: int) -> None:
        """Add a record of a task by its number, whose history is items ``begin`` to ``end`` of all."""
        for column, value in zip(self._columns, (task, template, item, user, begin, end), strict=True):
            column.append(value)
        self._order.append(len(self._order))

    def append_sequence(self, items: Sequence[int]) -> None:
        """Add a record of the task "sequence"."""
        begin = len(self._items)
        self._items.extend(items)
        self.append(_TASKS.index("sequence"), 0, -1, -1, begin, len(self._items))

    def shuffle(self, random_: random.Random, first: int) -> None:
        """Shuffle the records from number ``first`` on."""
        drawn = self._order[first:]
        random_.shuffle(drawn)
        self._order[first:] = drawn

    def reorder(self, order: Ints) -> None:
        """Put the records into another order: the number of the first one first."""
        self._order = array("i", np.frombuffer(self._order, dtype=np.int32)[order].tobytes())

    def of_tasks(self, tasks: Sequence[str], end: int) -> Ints:
        """Numbers of the records of ``tasks`` among the first ``end``."""
        task = np.frombuffer(self._columns[0], dtype=np.int8)[np.frombuffer(self._order, dtype=np.int32)[:end]]
        return np.flatnonzero(np.isin(task, [_TASKS.index(name) for name in tasks]))

    def counts(self) -> dict[str, int]:
        """How many records there are of each task, by name."""
        counts = Counter(self._columns[0])
        return {name: counts[_TASKS.index(name)] for name in sorted(_TASKS) if counts[_TASKS.index(name)]}


def draw_records(
    records: Records, config: SftConfig, material: Material, sequences: Sequences, random_: random.Random
) -> None:
    """Add records of every task, as often as ``config`` says, grouped by task.

    Args:
        records: Added to.
        config: Rows per item, training target or user, for each task.
        material: Items and users.
        sequences: Training items of each user, oldest first.
        random_: Draws the wordings, and which items, targets or users have a row more than others.
    """
    items = _Subjects.of_items(len(material.ids))
    targets = _Subjects.of_targets(sequences, *sequences.targets(1), config.history)
    known = np.fromiter((user in material.users for user in sequences), dtype=bool, count=len(sequences))
    rows = np.flatnonzero(known & (sequences.lengths > 1))
    last = _Subjects.of_targets(sequences, rows, sequences.lengths[rows] - 1, config.history)
    plans: tuple[tuple[Task, float, _Subjects], ...] = (
        ("id_to_text", config.id_to_text, items),
        ("text_to_id", config.text_to_id, items),
        ("next_item", config.next_item, targets),
        ("fused_next", config.fused_next, targets),
        ("search", config.search, last),
        ("preference", config.preference, last),
    )
    for task, rate, subjects in plans:
        _draw_rows(records, task, rate, subjects, material, sequences, random_)
    if config.sequence:
        for sequence in sequences.values():
            thinned = _thinned(sequence, config.sequence_drop, random_)
            for part in _parts(thinned, config):
                records.append_sequence(part)


@dataclass(frozen=True)
class _Subjects:
    """What rows are about, int64 ``[n]`` each: item, user, and where the history begins and ends among all items."""

    item: Ints
    user: Ints
    begin: Ints
    end: Ints

    @staticmethod
    def of_items(count: int) -> _Subjects:
        """Items alone."""
        nothing = np.zeros(count, dtype=np.int64)
        return _Subjects(np.arange(count), nothing - 1, nothing, nothing)

    @staticmethod
    def of_targets(sequences: Sequences, rows: Ints, positions: Ints, history: int) -> _Subjects:
        """Items at ``positions`` of the sequences in ``rows``, with ``history`` items at most before them."""
        end = sequences.start[rows] + positions
        begin = np.maximum(end - history, sequences.start[rows])
        return _Subjects(sequences.flat[end].astype(np.int64), sequences.users[rows], begin, end)


def _thinned(sequence: Sequence[int], drop: float, random_: random.Random) -> Sequence[int]:
    """``sequence`` without the share ``drop`` of its items; whole where fewer than two would be left."""
    if not drop:
        return sequence
    kept = [item for item in sequence if random_.random() >= drop]
    return kept if len(kept) > 1 else sequence


def _parts(sequence: Sequence[int], config: SftConfig) -> Iterator[Sequence[int]]:
    """Consecutive parts of at most ``config.sequence_items`` items, so that each item is a target once."""
    for start in range(0, len(sequence), config.sequence_items):
        yield sequence[start : start + config.sequence_items]


def _draw_rows(
    records: Records,
    task: Task,
    rate: float,
    subjects: _Subjects,
    material: Material,
    sequences: Sequences,
    random_: random.Random,
) -> None:
    """``rate`` rows per subject; of a fraction, that share of the subjects has one more, drawn without replacement."""
    whole, count, number = int(rate), len(subjects.item), _TASKS.index(task)
    more = np.zeros(count, dtype=bool)
    more[random_.sample(range(count), round((rate - whole) * count))] = True
    if not rate:
        return
    for item, user, begin, end, another in rows_of(subjects.item, subjects.user, subjects.begin, subjects.end, more):
        if task not in _SHOWS_HISTORY:
            begin = end = 0
        if task not in _SHOWS_USER:
            user = -1
        shown = sequences.flat[begin:end].tolist()
        record: Record = {"task": task, "template": 0, "item": item, "history": shown, "user": user}
        # An item without brand or description cannot be asked for them.
        usable = wordings_for(task, material.filled(record))
        for template in _draw(task, usable, whole + another, random_):
            records.append(number, template, item, user, begin, end)


def _draw(task: Task, usable: Sequence[int], times: int, random_: random.Random) -> list[int]:
    """``times`` wordings, every one as often as the others but for the last round.

    The first row of a target is in the wording that evaluation uses.
    """
    drawn = list(usable[:1]) if task == "next_item" and times else []
    while usable and len(drawn) < times:
        drawn += random_.sample(usable, min(len(usable), times - len(drawn)))
    return drawn
